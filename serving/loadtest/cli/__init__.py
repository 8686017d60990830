"""Implements `hangtag loadtest` and `hangtag loadtest compare` with the packages `measuring`, `comparison` and
`report`."""
