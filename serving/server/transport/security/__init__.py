"""Who may call: bearer tokens, TLS certificates, and the interceptor that refuses everybody else."""
