"""Subcommands that join several packages: ``choose``, ``data``, ``evaluate``, ``models``, ``route`` and ``runs``."""
