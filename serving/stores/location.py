"""Opens the object store of a URL with obstore, and explains in plain words why a call to the store failed.

obstore reads credentials from the environment, from files and from the machine's metadata service, as the tools of the
cloud providers do. Logs and messages never contain credentials: URLs are shown without parts that may be credentials,
and the texts of obstore's errors, which may quote URLs and answers of the store, are not shown.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from hangtag.errors import UserError
from hangtag.extras import needs

_RETRIES = 3
_FILE_HOURS = 1
_REASONS = {
    "NoSuchBucket|ContainerNotFound": "there is no such bucket",
    r"\bNotFound \{": "a file does not exist, or no longer exists",
    r"\b(Precondition|AlreadyExists) \{": "a file was changed at the same time; try again",
}
_REASONS_OF_ABSENCE = {
    "(?i)certificate": "this machine does not trust the store's certificate (SSL_CERT_FILE can name more authorities)",
    "(?i)dns error": "the host name is unknown",
    "(?i)timed ?out|kind: Timeout": "the store did not answer in time",
    "kind: Connect|ConnectError": "no server answers at this address",
    "kind: (Request|Interrupted|Decode)": "the connection was cut",
}


class StoreError(UserError):
    """A store cannot be read or written, or the store's content is not valid."""


class StoreAwayError(StoreError):
    """The store does not answer, so further requests are pointless."""


class CredentialsError(StoreError):
    """The store refuses the credentials, or demands credentials."""


def shown(url: str) -> str:
    """Return the URL for logs and messages, without parts that may be a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def object_store(url: str, silent_seconds: float, headers: Mapping[str, str] | None = None) -> Any:
    """Open a store with obstore, without sending anything.

    Args:
        url: s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, or https://HOST/PATH.
        silent_seconds: The seconds without data after which a request fails.
        headers: Headers to send with each request.

    Returns:
        An obstore store.

    Raises:
        StoreError: The URL, or the credentials that the environment names, cannot be used.
        MissingExtraError: obstore is not installed.
    """
    with needs("stores", "a model store"):
        from obstore.store import from_url
    allowed = any(os.environ.get(f"{cloud}_ALLOW_HTTP") == "true" for cloud in ("AWS", "GOOGLE"))
    with explained(url):
        return from_url(
            url,
            client_options={
                "allow_http": allowed or url.startswith("http:"),
                "connect_timeout": timedelta(seconds=min(5.0, silent_seconds)),
                "default_headers": dict(headers or {}),
                "read_timeout": timedelta(seconds=silent_seconds),
                "timeout": timedelta(hours=_FILE_HOURS),
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=3 * silent_seconds)},
        )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn an error of obstore, or an error with a local file, into a StoreError.

    Raises:
        StoreError: The context raised an error.
        StoreAwayError: The store does not answer, or the server at the URL is not a store.
        CredentialsError: The store refuses the credentials.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        failure = _failure(url, error)
    else:
        return
    raise failure  # raised outside of except, so that obstore's error, which may quote credentials, is not its context


def _failure(url: str, error: Exception) -> StoreError:
    if isinstance(error, OSError) and error.errno is not None:
        return StoreError(f"a local file cannot be read or written: {error}")
    text = f"{type(error).__name__} {error}"
    if re.search("PermissionDenied|Unauthenticated|(status code: |error ')40[13]", text):
        return CredentialsError(f"{shown(url)}: the store refuses the credentials, or there are no credentials")
    for pattern, reason in _REASONS.items():
        if re.search(pattern, text):
            return StoreError(f"{shown(url)}: {reason}")
    if status := re.search(r"(?:status code: |error ')(\d{3}(?: [A-Z][A-Za-z]+)*)", text):
        return StoreAwayError(f"{shown(url)} answers {status[1]}")
    reasons = (reason for pattern, reason in _REASONS_OF_ABSENCE.items() if re.search(pattern, text))
    return StoreAwayError(f"{shown(url)}: {next(reasons, f'the call failed ({type(error).__name__})')}")
