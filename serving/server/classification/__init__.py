"""Converts image files to the pixels that a classifier takes, and its outputs to labels with probabilities."""
