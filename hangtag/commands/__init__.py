"""Subcommands that combine several packages: ``choose``, ``data``, ``evaluate``, ``models``, ``route`` and ``runs``."""
