"""Which requests of a model are computed together, and when: the queue, its entries, and how long batches take."""
