"""The page of a run, or of several side by side: learning curves, mistakes, recipe and provenance. Needs no torch."""
