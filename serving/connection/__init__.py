"""Connections to one server: calls with a deadline, a token and retries, and errors that explain why a call failed.

Nothing here imports numpy or the protocol's messages, because a container's health check loads it every few seconds.
"""
