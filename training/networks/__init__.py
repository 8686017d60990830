"""The networks, layer by layer, and how their answers are computed batch by batch."""
