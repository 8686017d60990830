"""Calls that send a stream of requests: their queries are computed together and answered in order, and a request that
fails is answered in its place."""
