"""The typed client: ``from serving.client import Client``."""

from serving.client.classification import Classification, Label
from serving.client.client import Client, ClientError

__all__ = ["Classification", "Client", "ClientError", "Label"]
