"""The OpenAPI description of all routes, which GET /openapi.json returns."""
