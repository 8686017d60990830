"""What goes over an HTTP connection: a request, and the answer to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class HttpRequest:
    """A request.

    Attributes:
        verb: GET or POST.
        path: relative to the server's address, quoted, with its query.
        body: empty for none.
        headers: of the body.
    """

    verb: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpAnswer:
    """An answer whose body was read to its end.

    Attributes:
        status: such as 200.
        headers: by names in lower case.
        body: empty for none.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, end: int | None = None) -> Any:
        """Parse the body, or its first ``end`` bytes.

        Raises:
            ValueError: they are not JSON, or JSON that is nested too deeply to be read.
        """
        try:
            return json.loads(self.body[:end])
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error


def path_to(*segments: str, **query: object) -> str:
    """Return a path of segments that may hold any character, and a query of the values that are not None."""
    path = "/".join(quote(segment, safe="") for segment in segments)
    values = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(values)}" if values else path


def post_json(path: str, value: object) -> HttpRequest:
    """Return a request with a JSON body."""
    return HttpRequest("POST", path, json.dumps(value).encode(), {"content-type": "application/json"})
