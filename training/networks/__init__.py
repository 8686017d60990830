"""The networks, layer by layer, and the normalisation of pixels and, during training, of layers."""
