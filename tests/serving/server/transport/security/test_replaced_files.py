"""A pipe, a device, a folder or a huge file in place of tokens or certificates holds up no call and no stop."""

import os
import signal
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hangtag.serving.client import Client, Credentials
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.command import TIMEOUT, Serving, serving
from tests.kit.live import index
from tests.kit.rest import Rest

EVERY_LOOK_COUNTS = """
from hangtag.serving.server.config.limits import Limits
Limits.__init__.__kwdefaults__["file_check_seconds"] = 0.0
"""

REPLACEMENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "it is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "it is not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "huge file": (lambda path: path.write_bytes(bytes(2 << 20)), "it has more than 1,048,576 bytes"),
}
OPTIONS = ("--token-file", "--tls-cert", "--tls-key", "--tls-client-ca")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The files of a server by option, and beside them those of its client."""
    onnx_models.publish(tmp_path / "models", "gather", onnx_models.gather())
    (tmp_path / "certificates").mkdir()
    certificates = Certificates(tmp_path / "certificates")
    authority = certificates.folder / "authority.pem"
    authority.write_bytes(certificates.ca().read_bytes())
    for name in ("tokens", "token-of-client"):
        (certificates.folder / name).write_text(TOKEN)
    server = (
        certificates.folder / "tokens",
        certificates.cert("server-of-ours"),
        certificates.key("server-of-ours"),
        authority,
    )
    return dict(zip(OPTIONS, server, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_the_server_does_not_start_with_it(
    files: dict[str, Path], tmp_path: Path, option: str, replacement: str
) -> None:
    replace, reason = REPLACEMENTS[replacement]
    files[option].unlink()
    replace(files[option])
    settings = {name.removeprefix("--").replace("-", "_"): path for name, path in files.items()}
    refusals: list[str] = []

    def start() -> None:
        try:
            Server(ServerConfig(models=tmp_path / "models", port=0, http_port=-1, **settings))  # type: ignore[arg-type]
        except StartError as error:
            refusals.append(str(error))

    starting = threading.Thread(target=start, daemon=True)
    starting.start()
    starting.join(10)
    (refusal,) = refusals
    assert refusal.endswith(f"{files[option]} ({option}) cannot be read: {reason}") or (
        replacement == "folder" and refusal.endswith(f"{files[option]} is not the path of a file")
    )


def require_answers(server: Serving, files: dict[str, Path]) -> None:
    """Each port answers on a new connection."""
    folder = files["--token-file"].parent
    authority, certificate = folder / "ours-ca.pem", folder / "client-of-ours.pem"
    key, token = folder / "client-of-ours.key", folder / "token-of-client"
    credentials = Credentials(authority, certificate, key, token)
    with Client(server.wait_until_ready(), timeout=TIMEOUT, credentials=credentials) as client:
        assert client.infer("gather", {"index": index(2)})["value"].tolist() == [20]
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    with Rest(server.wait_for("ready").partition(" http=")[2].split()[0], context) as rest:
        assert rest.get("/v2", authorization=f"Bearer {TOKEN}").status == 200


def test_a_server_goes_on_with_the_files_from_before_and_stops(files: dict[str, Path], tmp_path: Path) -> None:
    options = [text for option, path in files.items() for text in (option, str(path))]
    refused: Counter[str] = Counter()
    with serving("--models", str(tmp_path / "models"), "--port", "0", *options, first=EVERY_LOOK_COUNTS) as server:
        require_answers(server, files)
        for option, path in files.items():
            what = ("tokens",) if option == "--token-file" else ("TLS certificates", "TLS certificates of HTTP")
            content = path.read_bytes()
            for replace, reason in REPLACEMENTS.values():
                path.unlink()
                replace(path)
                require_answers(server, files)
                for event in (f'"{each} not reloaded; the ones from before stay in use"' for each in what):
                    refused[event] += 1
                    server.wait_for_count(event, refused[event])
                    (*_, last) = (line for line in server.log if f"event={event}" in line)
                    assert f"{path} ({option}) cannot be read: {reason}" in last
                path.rmdir() if path.is_dir() else path.unlink()
                path.write_bytes(content)
                require_answers(server, files)
        for path in files.values():
            path.unlink()
            os.mkfifo(path)
        require_answers(server, files)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_pipe_in_place_of_tokens_holds_up_no_call_of_native(files: dict[str, Path], tmp_path: Path) -> None:
    tokens = files["--token-file"]
    options = ("--models", str(tmp_path / "models"), "--port", "0", "--transport", "native")
    credentials = Credentials(token_file=tokens.parent / "token-of-client")
    with serving(*options, "--token-file", str(tokens), first=EVERY_LOOK_COUNTS) as server:
        with Client(server.wait_until_ready(), timeout=TIMEOUT, credentials=credentials) as client:
            tokens.unlink()
            os.mkfifo(tokens)
            assert client.infer("gather", {"index": index(2)})["value"].tolist() == [20]
            assert client.models() == ["gather"]
        server.wait_for('"tokens not reloaded; the ones from before stay in use"')
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
