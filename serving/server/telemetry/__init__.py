"""What the server counts and says: statistics, Prometheus metrics, the HTTP port for them, and the log."""
