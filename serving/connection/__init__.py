"""Connections to one server: calls with a deadline and a token, which are tried again, and explained where they fail.

Nothing here imports numpy or the protocol's messages, because a container's health check loads it every few seconds.
"""
