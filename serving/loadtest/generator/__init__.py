"""Sending and recording: processes that run blocks of queries and hand back what was measured."""
