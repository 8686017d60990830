"""A proxy with which fake-gcs-server accepts uploads from obstore: python deploy/gcs_uploads.py PORT EMULATOR_PORT.

obstore uploads a file with a PUT of Cloud Storage's XML API, and a large file as a multipart upload of this API.
fake-gcs-server 1.54 accepts such a PUT only for a signed URL, ignores the PUT's precondition, and answers without the
ETag that obstore requires. fake-gcs-server does not support multipart uploads of the XML API. Therefore this proxy
sends each PUT as an upload of the JSON API, and forwards each GET with the Host of fake-gcs-server's -public-host.
"""

import http.client
import json
import sys
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlencode

_PARTS = b"""--=BOUNDARY=\r
Content-Type: application/json\r
\r
%b\r
--=BOUNDARY=\r
Content-Type: application/octet-stream\r
\r
%b\r
--=BOUNDARY=--\r
"""
Headers = Iterable[tuple[str, str]]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.headers.replace_header("Host", f"127.0.0.1:{sys.argv[1]}")  # tests send another proxy's port in Host
        self._answer(*self._ask("GET", self.path, self.headers.items()))

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        bucket, _, name = unquote(self.path).lstrip("/").partition("/")
        query = {"uploadType": "multipart", "name": name}
        if expected := self.headers["x-goog-if-generation-match"]:
            query["ifGenerationMatch"] = expected
        parts = _PARTS % (json.dumps({"name": name}).encode(), content)
        path, kind = f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}", 'multipart/related; boundary="=BOUNDARY="'
        status, headers, answer = self._ask("POST", path, [("Content-Type", kind)], parts)
        if status == 200:
            written = json.loads(answer)
            headers = [("ETag", f'"{written["etag"]}"'), ("x-goog-generation", written["generation"])]
        self._answer(status, headers, b"")

    def _ask(self, method: str, path: str, headers: Headers, body: bytes = b"") -> tuple[int, Headers, bytes]:
        """Send a request to fake-gcs-server, and return the status, the headers and the content of the answer."""
        emulator = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]))
        emulator.request(method, path, body, dict(headers))
        answer = emulator.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: Headers, content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
