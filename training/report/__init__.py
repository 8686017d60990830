"""The page of a run or of several runs: learning curves, mistakes, recipe and provenance. The page needs no torch."""
