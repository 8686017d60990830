"""Generates load: the processes issue queries, record how each query ended, and return the results of each block."""
