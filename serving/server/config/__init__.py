"""Every setting of the server, declared once with its type, default, help text and range. The command's options (cli),
a model's serving.toml and ServerConfig's constructor all use this declaration."""
