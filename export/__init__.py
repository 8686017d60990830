"""Trained weights -> the model repository. Nothing is published before it is proven in the runtime that serves it."""
