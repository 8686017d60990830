"""What earlier releases wrote, and what their clients send, still works: the README of each release names its files."""
