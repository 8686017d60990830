"""Converts image files to a classifier's input pixels, and a classifier's outputs to labels with probabilities."""
