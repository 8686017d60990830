"""A training run on disk: its config, files, identity, and the command that continues it."""
