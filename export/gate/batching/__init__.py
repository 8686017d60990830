"""Checks that batching changes no answer, and that a batch of 0 is survived or refused."""
