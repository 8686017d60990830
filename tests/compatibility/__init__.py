"""The files that earlier releases wrote and the calls of their clients still work. Each release's README lists them."""
