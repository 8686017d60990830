"""Data sets in memory: published images and labels, whose digests are checked, or the user's own pictures."""
