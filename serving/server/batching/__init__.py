"""Decides which requests of a model are computed together and when: queue, requests, deadlines, service time."""
