"""The data plane without a transport: models by name and version, loaded, validated against, replaced and unloaded."""
