"""Measures a whole load test: interleaved blocks, the validity of each run, and optionally accuracy and peaks."""
