"""The server as one process or as several: start, listen, drain, stop, and restart of workers that end."""
