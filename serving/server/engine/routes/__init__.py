"""Routes: names in the model repository whose calls are answered by models. A cascade asks its models one after
another; a split gives each of its models a share of the calls."""
