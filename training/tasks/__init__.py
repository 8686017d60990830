"""What a network is trained for: one label or several labels an image, with losses, objectives and teachers."""
