"""What the server sends for the page, and when it does not."""

import re
from pathlib import Path

from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import shipped
from tests.kit.live import LiveServer
from tests.kit.rest import Rest

ROOT = shipped.MODELS.parent
STATIC = ROOT / "serving/server/transport/http/page/static"
COLOUR = re.compile(r"(--[\w-]+): (#\w+);")


def test_every_file_is_sent_with_its_type_and_the_policy(shown: LiveServer) -> None:
    types = {".css": "text/css", ".js": "text/javascript", ".png": "image/png", ".svg": "image/svg+xml"}
    with Rest(shown.server.http_address) as rest:
        for file in STATIC.rglob("*.*"):
            if file.suffix in types:
                answer = rest.get(f"/page/{file.relative_to(STATIC)}")
                assert answer.body == file.read_bytes()
                assert answer.headers["content-type"].split(";")[0] == types[file.suffix]
                assert answer.headers["x-content-type-options"] == "nosniff"
        page = rest.get("/")
        assert f'data-grpc-port="{shown.server.port}"' in page.body.decode()
        assert "script-src 'self'; style-src 'self'" in page.headers["content-security-policy"]
        assert b"<script>" not in page.body
        assert b" style=" not in page.body
        for missing in ("/page/", "/page/index.html", "/page/../endpoint.py", "/page/%2e%2e/endpoint.py", "/page/x.js"):
            assert rest.get(missing).status == 404


def test_the_page_needs_no_token_and_its_calls_do(models: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("sesame-open-the-door-please\n")
    config = ServerConfig(models=models, port=0, http_port=0, model_control="explicit", token_file=tmp_path / "tokens")
    with LiveServer(config) as server, Rest(server.server.http_address) as rest:
        assert rest.get("/").status == 200
        assert rest.get("/page/main.js").status == 200
        assert rest.post("/v2/repository/index").status == 401


def test_a_server_can_do_without_the_page(models: Path) -> None:
    config = ServerConfig(models=models, port=0, http_port=0, model_control="explicit", no_page=True)
    with LiveServer(config) as server, Rest(server.server.http_address) as rest:
        assert rest.get("/").status == 404
        assert rest.get("/page/main.js").status == 404
        assert rest.get("/v2").status == 200


def test_the_page_has_the_colours_of_the_reports() -> None:
    reports = (ROOT / "hangtag/page/templates/style.css").read_text()
    page = (STATIC / "style.css").read_text()
    assert len(COLOUR.findall(reports)) >= 2 * 20
    # Light and dark in the order of the file: a colour that has another value there, or is missing, ends the sequence.
    own = iter(COLOUR.findall(page))
    assert [colour for colour in COLOUR.findall(reports) if colour not in own] == []


def test_the_example_pictures_are_those_of_the_repository() -> None:
    pictures = list((STATIC / "examples").iterdir())
    assert len(pictures) == 12
    for picture in pictures:
        (original,) = (ROOT / "examples").glob(f"*/{picture.name}")
        assert picture.read_bytes() == original.read_bytes()
