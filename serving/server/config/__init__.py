"""Every setting of the server, declared once with its type, default, help text and check.

The command's options (click_options), a model's serving.toml and ServerConfig's constructor all use that declaration.
"""
