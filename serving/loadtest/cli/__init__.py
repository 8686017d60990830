"""Implements the commands `hangtag loadtest` and `hangtag loadtest compare`."""
