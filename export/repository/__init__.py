"""The model repository: publish a version completely or not at all, choose the served version, list versions."""
