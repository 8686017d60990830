"""Figures of merit computed from a network's outputs, for one label and for several labels an image."""
