"""The samples of a target, read from files or generated at random, fitted to the model's inputs, and serialised."""
