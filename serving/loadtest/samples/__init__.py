"""Reads the samples of a target from files or generates them at random, and serialises them for the model's inputs."""
