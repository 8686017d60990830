"""Chooses which model or cascade to serve, by accuracy, by speed on this machine, and by a load test."""
