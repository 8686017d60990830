"""The subcommands that join several packages: ``runs``, ``evaluate``, ``labels`` and ``models``."""
