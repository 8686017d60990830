"""What the server counts and reports: statistics, Prometheus metrics and the HTTP port for them, and the log."""
