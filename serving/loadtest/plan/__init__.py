"""What is asked of a load test, before anything is sent: targets, loads, limits, schedules. Values and arithmetic."""
