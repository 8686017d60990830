"""Stores behind network connections that a test can break: moto's S3, a running emulator, and a web server with TLS."""

import logging
import os
import ssl
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hangtag import Client
from tests.kit.certificates import Certificates
from tests.kit.command import Serving, invoke, refusal, serving, with_limits
from tests.kit.link import Link, link
from tests.kit.repository import samples
from tests.kit.waiting import until

SECRET = "a-secret-of-the-store"


@dataclass
class ObjectStore:
    """A store of models, which a server reaches through a link."""

    url: str
    link: Link
    variables: dict[str, str]
    """Environment variables with which a command reaches the store through the link."""
    direct: dict[str, str] = field(default_factory=dict)
    """Environment variables with which a command reaches the store directly."""
    status: int = 0
    """The HTTP status of a web server's answers to GET. With 0, the web server answers normally."""
    failing: str = ""
    """A web server answers with ``status`` if the path contains this text. Every path contains ""."""

    def run(self, *arguments: object) -> str:
        """Run ``hangtag models``, which must succeed, and return its output."""
        return invoke("models", *arguments, variables=self.variables).output

    def push(self, *arguments: object) -> str:
        """Run ``hangtag models push``, which does not use the link."""
        return invoke("models", "push", *arguments, self.url, variables=self.variables | self.direct).output

    def refused(self, *arguments: object) -> str:
        """Run ``hangtag models``, which must fail, and return the error."""
        return refusal("models", *arguments, variables=self.variables)

    def put(self, path: str, content: bytes) -> None:
        """Write a file to the store without hangtag. moto accepts any access keys."""
        from obstore.store import from_url

        keys: Any = {"endpoint": self.direct["AWS_ENDPOINT_URL"], "access_key_id": "x", "secret_access_key": "x"}
        from_url(self.url, client_options={"allow_http": True}, **keys).put(path, content)

    @contextmanager
    def server(self, *options: object, silent_seconds: float = 10) -> Iterator[Serving]:
        """A server that polls the store ten times a second, and waits at most ``silent_seconds`` for its answers."""
        following = ("--model-control", "poll", "--poll-seconds", "0.1")
        ports = ("--port", 0, "--http-port", -1, "--transport", "grpc")
        short: Any = {"first": with_limits(store_silent_seconds=silent_seconds), **self.variables}
        with serving("--models", self.url, *following, *ports, *options, **short) as server:
            yield server
        log = "".join(server.log)
        assert SECRET not in log


def answer(server: Serving, name: str = "m") -> int:
    """The number of the version that answers. The model must be the default model of `Repository.publish`."""
    with Client(server.address) as client:
        return int(client.infer(name, samples([0]))["y"][0, 0])


def until_answer(server: Serving, number: int) -> None:
    """Wait until this version answers."""
    until(lambda: answer(server) == number)


def swap(true: bytes, false: bytes) -> Callable[[bytes], bytes]:
    """Return a function for `Link.alter` that replaces bytes of a store's answers."""
    return lambda data: data.replace(true, false)


@contextmanager
def moto() -> Iterator[str]:
    """Yield the URL of moto's S3."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@contextmanager
def s3(moto: str, cache: Path) -> Iterator[ObjectStore]:
    """A store in a folder of a new S3 bucket."""
    bucket = f"b{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"{moto}/{bucket}", method="PUT")).close()
    with link(moto.removeprefix("http://")) as opened:
        variables = {
            "AWS_ACCESS_KEY_ID": f"AKIA-{SECRET}",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://{opened.address}",
            "XDG_CACHE_HOME": str(cache),
        }
        yield ObjectStore(f"s3://{bucket}/models", opened, variables, {"AWS_ENDPOINT_URL": moto})


@contextmanager
def emulator(url: str, variable: str, cache: Path) -> Iterator[ObjectStore]:
    """A store in a new folder below ``url``. The environment variable ``variable`` has its emulator's HTTP address."""
    address = os.environ[variable]
    with link(address.removeprefix("http://")) as opened:
        variables = {variable: f"http://{opened.address}", "XDG_CACHE_HOME": str(cache)}
        yield ObjectStore(f"{url}/{uuid.uuid4().hex}", opened, variables, {variable: address})


@contextmanager
def https(folder: Path, cache: Path) -> Iterator[ObjectStore]:
    """A web server that reads and writes files in a folder, and whose URL contains a password and a signature."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if store.status and store.failing in self.path:  # S3's error messages also repeat the request
                self.send_error(store.status, explain=f"{self.path} {self.headers}")
            else:
                super().do_GET()

        def do_PUT(self) -> None:
            file = Path(self.translate_path(self.path))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    certificates = Certificates(cache / "certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert("server-of-ours"), certificates.key("server-of-ours"))
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *request: Handler(*request, directory=str(folder))) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with link(f"127.0.0.1:{web.server_address[1]}") as opened:
            url = f"https://user:{SECRET}@{opened.address}/models?sig={SECRET}"
            variables = {"SSL_CERT_FILE": str(certificates.ca()), "XDG_CACHE_HOME": str(cache)}
            store = ObjectStore(url, opened, variables)
            yield store
        web.shutdown()
