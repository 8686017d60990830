"""The typed client: ``from serving.client import Client``."""

from serving.client.client import Classification, Client, ClientError, Label

__all__ = ["Classification", "Client", "ClientError", "Label"]
