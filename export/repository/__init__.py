"""The model repository: publish a version all or nothing, and list the versions that are there."""
