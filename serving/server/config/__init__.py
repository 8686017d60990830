"""Every setting of the server, declared once: its type, default, help text and check."""
