"""`hangtag loadtest` and `hangtag loadtest compare`: parse the command line, call measuring and comparison, render."""
