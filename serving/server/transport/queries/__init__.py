"""The queries that transports submit: ModelInfer as a message or as bytes, and an image to classify."""
