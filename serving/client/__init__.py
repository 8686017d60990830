"""The typed client: ``from serving.client import Client``."""

from serving.client.classification import Classification, Label
from serving.client.client import Client
from serving.connection import ClientError
from serving.credentials import Credentials, CredentialsError

__all__ = ["Classification", "Client", "ClientError", "Credentials", "CredentialsError", "Label"]
