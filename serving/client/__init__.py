"""The typed client: ``from serving.client import Client``."""

from serving.client.client import Classification, Client, ClientError, Label
from serving.credentials import Credentials, CredentialsError

__all__ = ["Classification", "Client", "ClientError", "Credentials", "CredentialsError", "Label"]
