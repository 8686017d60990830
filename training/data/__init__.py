"""Data sets: images and labels in memory, checked against published digests, and their augmentation."""
