"""Several labels an image: CNN-RNN and its baselines, their data sets, and what the training loop asks of the task."""
