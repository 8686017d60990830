"""Loads a version in a child process first, so that a file that takes all memory or time ends that process and not the
server (--trial-load-seconds)."""
