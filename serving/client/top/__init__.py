"""`hangtag top` shows what a running server is doing, as a live table, as one table, or as lines of JSON."""
