"""Plans a load test before any query is sent: targets, loads, limits and schedules, as plain values and pure
functions."""
