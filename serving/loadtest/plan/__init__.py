"""The plan of a load test, made before any query is sent: targets, loads, limits, schedules. Values and arithmetic."""
