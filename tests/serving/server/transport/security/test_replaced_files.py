"""A running server can answer and shut down even if its token or certificate file is missing, huge or a pipe."""

import os
import queue
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from hangtag.serving.client import Client, Credentials
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import StartError
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.live import LiveServer, index
from tests.kit.over_http import live_server
from tests.kit.rest import Rest
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT, until

REPLACEMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "it is not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "missing": (Path.exists, "No such file or directory"),
    "huge file": (lambda path: path.write_bytes(bytes(2 << 20)), "it has more than 1,048,576 bytes"),
}
OPTIONS = ("--token-file", "--tls-cert", "--tls-key", "--tls-client-ca")


@pytest.fixture
def files(certificates: Certificates) -> dict[str, Path]:
    """The files of the server, keyed by option. The client's files are in the same folder."""
    authority = certificates.folder / "authority.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    for name in ("tokens", "token-of-client"):
        (certificates.folder / name).write_text(TOKEN)
    cert, key = certificates.cert("server-of-ours"), certificates.key("server-of-ours")
    return dict(zip(OPTIONS, (certificates.folder / "tokens", cert, key, authority), strict=True))


def settings(files: dict[str, Path]) -> dict[str, Any]:
    """Settings of a server that checks its files at each call."""
    options: dict[str, Any] = {name.removeprefix("--").replace("-", "_"): path for name, path in files.items()}
    return {**options, "limits": Limits(file_check_seconds=0)}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_server_does_not_start_with_it(files: dict[str, Path], models: Path, option: str) -> None:
    path, refusals = files[option], queue.SimpleQueue[str]()

    def start() -> None:
        with pytest.raises(StartError) as refused, server(models, **settings(files)):
            pass
        refusals.put(str(refused.value))

    for kind, (replace, reason) in REPLACEMENTS.items():
        path.unlink()
        replace(path)
        threading.Thread(target=start, daemon=True).start()
        refusal = refusals.get(timeout=TIMEOUT)
        if kind == "folder":
            assert refusal.endswith(f"{path} is not the path of a file")
        else:
            assert refusal.endswith(f"{path} ({option}) cannot be read: {reason}")
        remove(path)
        path.touch()


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def require_answers(live: LiveServer, files: dict[str, Path]) -> None:
    """Require that the server answers on a new connection to each of its ports."""
    folder = files["--token-file"].parent
    authority, certificate = folder / "ours-ca.pem", folder / "client-of-ours.pem"
    key, token = folder / "client-of-ours.key", folder / "token-of-client"
    credentials = Credentials(authority, certificate, key, token)
    with Client(live.server.address, timeout=TIMEOUT, credentials=credentials) as client:
        assert client.infer("gather", {"index": index(2)})["value"].tolist() == [20]
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    with Rest(live.server.http_address, context) as rest:
        assert rest.get("/v2", authorization=f"Bearer {TOKEN}").status == 200


def test_a_server_goes_on_with_the_files_from_before_and_stops(files: dict[str, Path], models: Path) -> None:
    with live_server("native", models, http_port=0, **settings(files)) as live:
        require_answers(live, files)
        for option, path in files.items():
            content = path.read_bytes()
            for replace, reason in REPLACEMENTS.values():
                what = "tokens" if option == "--token-file" else "TLS certificates"
                refused = {"event": f"{what} not reloaded; the previous contents stay in use", "log_level": "warning"}
                refused["reason"] = f"{path} ({option}) cannot be read: {reason}"
                with structlog.testing.capture_logs() as log:  # captures the log from here on
                    path.unlink()
                    replace(path)
                    require_answers(live, files)
                    until(lambda log=log, refused=refused: refused in log)  # type: ignore[misc]
                    require_answers(live, files)
                    remove(path)
                    path.write_bytes(content)
                    require_answers(live, files)
                    until(lambda log=log, what=what: f"{what} reloaded" in {each["event"] for each in log})  # type: ignore[misc]
        for path in files.values():
            path.unlink()
            os.mkfifo(path)
        require_answers(live, files)
        with live.stopping():
            pass


def test_a_pipe_in_place_of_tokens_holds_up_no_call_of_native(files: dict[str, Path], models: Path) -> None:
    tokens = files["--token-file"]
    options = settings({"--token-file": tokens})
    credentials = Credentials(token_file=tokens.parent / "token-of-client")
    with live_server("native", models, **options) as live, structlog.testing.capture_logs() as log:
        with Client(live.server.address, timeout=TIMEOUT, credentials=credentials) as client:
            tokens.unlink()
            os.mkfifo(tokens)
            assert client.infer("gather", {"index": index(2)})["value"].tolist() == [20]
            assert client.models() == ["gather"]
        assert "tokens not reloaded; the previous contents stay in use" in {line["event"] for line in log}
        with live.stopping():
            pass
