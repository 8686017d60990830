"""The networks, layer by layer, and normalisation: of pixels, and of layers during training."""
