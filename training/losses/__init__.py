"""Loss functions: logits and labels to a scalar to differentiate, for one label and for a set of labels an image."""
