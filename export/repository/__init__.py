"""The model repository: publish a version completely or not at all, choose the version that serves, list versions."""
