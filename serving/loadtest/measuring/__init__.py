"""Measure a whole load test: interleaved blocks, whether each run is VALID, and optionally accuracy and peaks."""
