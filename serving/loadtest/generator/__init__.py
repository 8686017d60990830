"""The load generator: processes that issue queries, record how each ended, and return the results block by block."""
