"""Routes: names of the model repository that answer by other models, one after another or a share of the calls each."""
