"""Routes: names in the model repository whose calls go to other models, one after another (a cascade) or to each a
share (a split)."""
