"""The training loop: steps, epochs and checkpoints, and the optimizers."""
