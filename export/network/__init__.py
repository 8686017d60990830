"""A trained network in the form in which it is served: preprocessing, the network with the weights of the best epoch,
and the conversion of its scores to outputs, in one module."""
