"""The queue of one model: when its calls are computed, and which calls share a batch."""
