"""The networks, the normalisation of pixels, and batch normalisation."""
