"""The checks that a file must pass before it is published, one module each."""
