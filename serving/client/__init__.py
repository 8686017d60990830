"""The typed client: ``from hangtag.serving.client import Client``."""

from hangtag.serving.client.classification import Classification, Label
from hangtag.serving.client.client import Client
from hangtag.serving.connection import ClientError
from hangtag.serving.credentials import Credentials, CredentialsError

__all__ = ["Classification", "Client", "ClientError", "Credentials", "CredentialsError", "Label"]
