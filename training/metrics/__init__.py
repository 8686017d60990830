"""Metrics of predictions: for one label per image, for sets of labels, and for the severity of mistakes."""
