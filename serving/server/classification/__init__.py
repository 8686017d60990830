"""From image files to the pixels that a model takes, and from its outputs to labels with probabilities."""
