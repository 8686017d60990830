"""Measures a whole load test: interleaved blocks and whether the runs made of them are VALID, and what is measured
besides: accuracy, caching, peaks, the generator's ceiling."""
