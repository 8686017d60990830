"""Data sets in memory: images and labels, checked against published digests, or the user's own pictures."""
