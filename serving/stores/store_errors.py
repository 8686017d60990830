"""Explains in plain words why a call to a store failed.

Logs and messages never contain credentials: URLs are shown without parts that may be credentials. The messages of
obstore's errors are not shown, because such a message may quote URLs and answers of the store.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from hangtag.errors import UserError

_REASONS = {
    r"PermissionDenied|Unauthenticated|status code: 40[13]": "the store refuses the credentials, or there are no "
    "credentials",
    "NoSuchBucket|ContainerNotFound": "there is no such bucket",
    r"\bNotFound \{": "a file does not exist, or no longer exists",
    r"\b(Precondition|AlreadyExists) \{": "a file was changed at the same time; try again",
    r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)": r"the store answers \1",
    "(?i)certificate": "this machine does not trust the store's certificate (SSL_CERT_FILE can name more authorities)",
    "(?i)dns error|name resolution": "the host name is unknown",
    "(?i)timed ?out|kind: Timeout": "the store did not answer in time",
    "kind: Connect": "no server answers at this address",
    "kind: (Request|Interrupted|Decode)": "the connection was cut",
}


class StoreError(UserError):
    """A store cannot be read or written, or the store's content is not valid."""


def shown(url: str) -> str:
    """Return the URL for logs and messages, without parts that may be a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn errors of obstore and of local files into a StoreError.

    Raises:
        StoreError: The context raised an error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _reason(shown(url), error)
    else:
        return
    raise StoreError(reason)  # not in the except block, where Python would attach an error that may quote credentials


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"a local file cannot be read or written: {error}"
    text = f"{type(error).__name__} {error}"
    for pattern, reason in _REASONS.items():
        if match := re.search(pattern, text):
            return f"{name}: {match.expand(reason)}"
    return f"{name}: the call failed ({type(error).__name__})"
