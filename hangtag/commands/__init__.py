"""The subcommands that join several packages: ``evaluate``, ``labels`` and ``models``. They parse, call and print."""
