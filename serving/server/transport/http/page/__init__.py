"""The page to try the models with: its files, in static/, and how they are served. Browsers run it; it calls the routes
that every client of HTTP calls."""
