"""Routes: names in the model repository whose calls the server passes to models. A cascade calls its models one after
another; a split gives each of its models a share of the calls."""
