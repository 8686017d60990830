"""Decodes image files within limits on memory and time."""
