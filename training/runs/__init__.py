"""A training run on disk: its configuration, metrics and weights, and exported models that teach."""
