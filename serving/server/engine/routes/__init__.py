"""Routes: names in the model repository whose calls other models answer, one after another (a cascade) or each a share
(a split)."""
