"""What tests share: how to wait, without sleeping for a guessed time."""
