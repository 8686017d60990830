"""The routes beside inference: health, models, the repository, classification, metrics. Each endpoint gets Starlette's
request, returns a response, and raises domain errors."""
