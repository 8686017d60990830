"""The model repository: publish a version completely or not at all, choose the one that serves, list versions."""
