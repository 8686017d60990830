"""HTTP/1.1 requests as bytes: valid ones, those that end their connection, and those that the server refuses.

The model ``text`` answers a POST with the POST's body and "!". Every GET asks for a model that does not exist."""

HOST = b"Host: here\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAQAAAAIAAAAA\r\n"
WEBSOCKET = b"Connection: keep-alive, upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
POST = b"POST /v2/models/text/infer HTTP/%b\r\n" + HOST + b"Inference-Header-Content-Length: 0\r\n"
INNER = b"POST /v2/repository/models/text/unload HTTP/1.1\r\nHost: inner\r\nContent-Length: 0\r\n\r\n"


def get(more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"GET /v2/models/no%20one?a=b HTTP/" + version + b"\r\n" + HOST + more + b"\r\n"


def post(body: bytes, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return POST % version + more + length + b"\r\n" + body


def chunked(*chunks: bytes, more: bytes = b"", extension: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    head = POST % b"1.1" + more + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + parts + b"0\r\n" + trailers + b"\r\n"


VALID = {
    "get": get(),
    "post": post(b"hello"),
    "empty post": post(b""),
    "a body like a request": post(INNER),
    "chunks": chunked(b"hel", b"lo"),
    "chunks with an extension": chunked(b"hello", INNER, extension=b";a=b"),
    "trailers": chunked(b"hello", trailers=b"Authorization: x\r\nContent-Encoding: gzip\r\n"),
    "trailers of another request": chunked(
        b"a", trailers=b"Host: there\r\nExpect: 100-continue\r\nKeep-Alive: max=1\r\n"
    ),
    "h2c": get(H2C),
    "h2c with a body": post(INNER, H2C),
    "h2c after the length": post(INNER).replace(b"\r\n\r\n", b"\r\n" + H2C + b"\r\n", 1),
    "h2c in chunks": chunked(INNER, b"more", more=H2C, trailers=b"X: y\r\n"),
    "websocket": post(b"hello", WEBSOCKET),
    "upgrade that is not of the connection": post(b"hello", b"Upgrade: x\r\n"),
    "expect": post(b"hello", b"Expect: 100-continue\r\n"),
    "expect and upgrade": post(b"hello", b"Expect: 100-continue\r\n" + H2C),
}
"""Requests after which the connection stays open."""

LAST = {
    "close": post(b"hello", b"Connection: close\r\n"),
    "close and upgrade": post(INNER, b"Connection: close, Upgrade\r\nUpgrade: x\r\n"),
    "old": get(version=b"1.0"),
    "old with keep-alive": post(b"hello", b"Connection: keep-alive\r\n", b"1.0"),
}
"""Requests after which the server closes the connection."""

REFUSED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v2\r\n\r\n",
    "HTTP/2.0": get(version=b"2.0"),
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "two hosts": get(b"X: y\r\nhost: there\r\n"),
    "two hosts in HTTP/1.0": get(HOST, b"1.0"),
    "a host with a path": b"GET /v2 HTTP/1.1\r\nHost: here/there\r\n\r\n",
    "a list of hosts": b"GET /v2 HTTP/1.1\r\nHost: here, there\r\n\r\n",
    "connect": b"CONNECT here:443 HTTP/1.1\r\n" + HOST + b"\r\n" + INNER,
    "connect with a body": b"CONNECT here:443 HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER,
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\nhello",
    "a huge length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "length and chunks": post(b"0\r\n\r\n" + INNER, b"Transfer-Encoding: chunked\r\n"),
    "length, chunks and upgrade": post(b"0\r\n\r\n" + INNER, b"Transfer-Encoding: chunked\r\n" + H2C),
    "chunks of HTTP/1.0": chunked(b"hello").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "chunks after gzip": chunked(b"hello").replace(b": chunked", b": gzip, chunked"),
    "two transfer encodings": chunked(b"hello", more=b"Transfer-Encoding: identity\r\n"),
    "a chunk of no size": chunked(b"hello").replace(b"5\r\n", b"x\r\n"),
    "a chunk that is too long": chunked(b"hello").replace(b"5\r\n", b"4\r\n"),
    "a malformed trailer": chunked(b"hello", trailers=b"X y\r\n"),
    "a trailer that closes": chunked(b"hello", trailers=b"X: y\r\nConnection: close\r\n"),
    "a trailer that closes for a proxy": chunked(b"hello", trailers=b"PROXY-Connection: close\r\n"),
    "a trailer that keeps alive": chunked(b"hello", trailers=b"connection: keep-alive\r\n"),
    "trailers that ask for another protocol": chunked(b"hello", trailers=H2C),
    "an upgrade in a trailer": chunked(b"hello", trailers=b"Upgrade: x\r\n"),
    "a length in a trailer": chunked(b"hello", trailers=b"Content-Length: 3\r\n"),
    "a transfer encoding in a trailer": chunked(b"hello", trailers=b"Transfer-Encoding: gzip\r\n"),
    "a space before a colon": get(b"X : y\r\n"),
    "a bare line feed": get(b"X: y\nZ: w\r\n"),
    "a bare carriage return": get(b"X: y\rZ: w\r\n"),
    "a null": get(b"X: \0\r\n"),
    "a folded header": get(b"X: y\r\n z\r\n"),
    "a malformed head with upgrade": get(H2C + b"X : y\r\n"),
}
"""Streams whose first request the server refuses. The server does not answer the later requests."""

STATUSES = {
    "HTTP/0.9": 505,
    "HTTP/2.0": 505,
    "connect": 501,
    "connect with a body": 501,
    "chunks of HTTP/1.0": 501,
    "chunks after gzip": 501,
    "two transfer encodings": 501,
}
"""The status codes of refusals. A refusal that is not listed here has the status 400."""
