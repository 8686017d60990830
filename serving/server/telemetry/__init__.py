"""What the server counts and reports: statistics, Prometheus metrics and their HTTP port, and the log."""
