"""Files of earlier releases, and calls by their clients, still work. Each release's README lists the files."""
