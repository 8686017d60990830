"""Explains in plain words why a call to a store failed.

Logs and messages never contain credentials: URLs are shown without parts that may be credentials. The messages of the
libraries' errors are not shown, because such a message may quote URLs and answers of the store.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from hangtag.errors import UserError

_REASONS = {
    r"PermissionDenied|Unauthenticated|(status code: |error ')40[13]": "the store refuses the credentials, or there "
    "are no credentials",
    "NoSuchBucket|ContainerNotFound": "there is no such bucket",
    r"\bNotFound \{|error '404": "a file does not exist, or no longer exists",
    r"\b(Precondition|AlreadyExists) \{": "a file was changed at the same time; try again",
}
_REASONS_OF_ABSENCE = {
    r"(?:status code: |error ')(\d{3}(?: [A-Z][A-Za-z]+)*)": r"the store answers \1",
    "(?i)certificate": "this machine does not trust the store's certificate (SSL_CERT_FILE can name more authorities)",
    "(?i)dns error|name resolution|not known": "the host name is unknown",
    "(?i)timed ?out|kind: Timeout|Timeout ": "the store did not answer in time",
    "kind: Connect|ConnectError": "no server answers at this address",
    "kind: (Request|Interrupted|Decode)|(Read|Write|Protocol)Error": "the connection was cut",
}


class StoreError(UserError):
    """A store cannot be read or written, or the store's content is not valid."""


class StoreAwayError(StoreError):
    """The store does not answer, so further requests are pointless."""


def shown(url: str) -> str:
    """Return the URL for logs and messages, without parts that may be a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn errors of obstore, httpx2 and local files into a StoreError.

    Raises:
        StoreError: The context raised an error.
        StoreAwayError: The store does not answer, or the server at the URL is not a store.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failure = _failure(shown(url), error)
    else:
        return
    raise failure  # not in the except block, where Python would attach an error that may quote credentials


def _failure(name: str, error: Exception) -> StoreError:
    if isinstance(error, OSError) and error.errno is not None:
        return StoreError(f"a local file cannot be read or written: {error}")
    text = f"{type(error).__name__} {error}"
    for kind, reasons in ((StoreError, _REASONS), (StoreAwayError, _REASONS_OF_ABSENCE)):
        for pattern, reason in reasons.items():
            if match := re.search(pattern, text):
                return kind(f"{name}: {match.expand(reason)}")
    return StoreAwayError(f"{name}: the call failed ({type(error).__name__})")
