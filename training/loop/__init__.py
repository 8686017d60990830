"""The training loop: steps, epochs, checkpoints, and the optimizers that change the weights."""
