"""A trained network as it is served: weights of the best epoch, with preprocessing and answer in one module."""
