"""Subcommands that join several packages: evaluate, labels and models."""
