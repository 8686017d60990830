"""The HTTP transport: the Open Inference Protocol over REST, classification of image files, metrics, and health. Only
this folder uses httptools."""
