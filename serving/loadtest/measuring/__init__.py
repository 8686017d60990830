"""Measures a whole load test: the interleaved blocks, whether each run is VALID, and extras: accuracy, caching, peaks,
the generator's ceiling."""
