"""The networks, layer by layer, their batch normalisation, and inference batch by batch."""
