"""Plans a load test before any query is sent, as plain values and pure functions."""
