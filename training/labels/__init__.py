"""Distances between labels, computed from a trained network's embeddings of them."""
