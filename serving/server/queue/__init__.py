"""Decides when requests of a model are computed, and which together: queue, requests, deadlines, service time."""
