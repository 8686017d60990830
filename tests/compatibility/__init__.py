"""What the last release wrote, and what its client sends, still works: release_0_1_0/README.md names its files."""
