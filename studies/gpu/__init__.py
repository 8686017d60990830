"""Does a GPU do what docs/serving.md says, and what is it worth? `make gpu-check`."""
