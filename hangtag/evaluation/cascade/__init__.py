"""Chooses the threshold of a cascade of models from labelled images, and writes its route and a report about it."""
