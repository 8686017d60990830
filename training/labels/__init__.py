"""Distances between labels, measured by a trained network's embeddings of them."""
