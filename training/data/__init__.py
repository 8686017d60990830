"""Data sets in memory: images and labels, checked against published digests, and augmentation."""
