"""The model repository on disk: what it holds, and how a new version is published into it."""
