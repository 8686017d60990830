"""Loss functions turn logits and labels into a scalar to differentiate, for one label and for a set of labels per
image."""
