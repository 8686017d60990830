"""The queries that transports submit: ModelInfer as a message or as bytes, and an image to classify or to compare
models on; and how the event loop waits for their outcomes."""
