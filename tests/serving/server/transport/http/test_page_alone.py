"""Tests that each open their own page in Chromium, and tests of the page's files."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from hangtag import Client, Credentials
from tests.kit import shipped
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.live import LiveServer
from tests.kit.over_http import live_server
from tests.kit.rest import Rest
from tests.serving.server.transport.http.shown_page import (
    EXAMPLES,
    FOCUSED,
    REACHABLE,
    ROOT,
    Shown,
    labels_by_code,
    picture,
    shown_page,
)

STATIC = ROOT / "serving/server/transport/http/page/static"
COLOUR = re.compile(r"(--[\w-]+): (#\w+);")


def look_again(page: Shown) -> None:
    """Make the page read the metrics now, as it does if the user returns from another browser tab."""
    page.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_a_page_takes_a_token_and_sees_models_come_and_the_server_end(
    browser: Browser, shown_models: Path, tmp_path: Path
) -> None:
    # The page's code refers to TOKEN_FILE and CA_FILE, which must be in the folder in which the code runs.
    for name in ("tokens", "TOKEN_FILE"):
        (tmp_path / name).write_text(TOKEN)
    certificates = Certificates(tmp_path / "certificates")
    (tmp_path / "CA_FILE").symlink_to(certificates.ca())
    files = certificates.server(token_file=tmp_path / "tokens")
    loaded: dict[str, Any] = {"model_control": "explicit", "load_model": ("lstm",)}
    secured = live_server("grpc", shown_models, http_port=0, instances=1, **loaded, **files)
    with secured as server, browser.new_context(ignore_https_errors=True) as context:
        page = Shown(context.new_page(), f"https://{server.server.http_address}/")
        token = page.page.get_by_label("This server wants a token.")
        token.fill("wrong")
        page.page.keyboard.press("Enter")
        expect(page.page.locator("#refusal")).to_contain_text("token")
        token.fill(TOKEN)
        page.page.keyboard.press("Enter")
        page.wait_for_answers()
        expect(token).to_be_hidden()
        assert TOKEN not in page.code("curl")
        assert "$(cat TOKEN_FILE)" in page.code("grpcurl")
        assert page.page.evaluate("() => Object.keys({...localStorage, ...sessionStorage}).length") == 0
        (tmp_path / "shirt-1.png").write_bytes(picture("garments/shirt-1.png"))
        page.choose("lstm")
        assert set(map(str, labels_by_code(page, tmp_path).values())) == {str([page.labels("lstm")])}
        credentials = Credentials(tls_ca=tmp_path / "CA_FILE", token_file=tmp_path / "TOKEN_FILE")
        with Client(server.server.address, credentials=credentials) as client:
            client.load_model("hostile")
        look_again(page)
        expect(page.page.locator("#chooser input")).to_have_count(2)
        server.server.stop(grace=0)
        look_again(page)
        expect(page.page.locator("#health")).to_have_text("unreachable")


def test_it_opens_with_a_picture_that_all_models_that_ship_answer_rightly(browser: Browser) -> None:
    with (
        live_server("native", shipped.MODELS, http_port=0, instances=1) as server,
        shown_page(browser, server.server.http_address) as page,
    ):
        names = [each.input_value() for each in page.page.locator("#chooser input").all()]
        assert len(names) == 9
        page.choose(*names)
        assert {page.labels(name)[0] for name in names} == set(page.examples(shown=True))


def test_examples_have_a_path_of_their_own_and_malformed_ones_are_left_out(shown: LiveServer) -> None:
    with Rest(shown.server.http_address) as rest:
        given = {name: rest.get(f"/v1/examples/{name}").json["examples"] for name in ("colours@1", "hostile", "lstm")}
        configuration = rest.get("/v2/models/colours/config").json["parameters"]
        assert rest.get("/v1/examples/nobody").status == 404
    assert [each["label"] for each in given["colours@1"]] == ["red", "green", "blue"]
    assert (given["hostile"], given["lstm"]) == ([], [])
    assert "hangtag.examples" not in configuration
    assert configuration["classifies_images"]["string_value"] == "true"


@pytest.mark.parametrize("source", ["Choose", "Draw"])
def test_a_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, shown: LiveServer, source: str) -> None:
    with shown_page(browser, shown.server.http_address) as page:
        page.page.get_by_text(source, exact=True).click()
        page.page.evaluate("() => document.activeElement.blur()")
        expected = page.page.evaluate(REACHABLE)
        assert len(expected) > 12
        reached = {}
        for _ in range(len(expected) + 3):
            page.page.keyboard.press("Tab")
            if focused := page.page.evaluate(FOCUSED):
                reached[focused[0]] = focused[1]
        assert [element for element in expected if element not in reached] == []
        assert [element for element, is_shown in reached.items() if not is_shown] == []


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


def test_a_server_can_do_without_the_page(shown_models: Path) -> None:
    explicit = live_server("grpc", shown_models, http_port=0, model_control="explicit", no_page=True)
    with explicit as server, Rest(server.server.http_address) as rest:
        assert [rest.get(path).status for path in ("/", "/page/main.js", "/v2")] == [404, 404, 200]


def test_the_page_has_the_colours_of_the_reports() -> None:
    reports = (ROOT / "hangtag/page/templates/style.css").read_text()
    page = (STATIC / "style.css").read_text()
    assert len(COLOUR.findall(reports)) >= 2 * 20
    # The page must have all colours of the reports, dark and light, in the same order.
    own = iter(COLOUR.findall(page))
    assert [colour for colour in COLOUR.findall(reports) if colour not in own] == []


def test_the_example_pictures_are_those_of_the_repository() -> None:
    pictures = list((STATIC / "examples").iterdir())
    assert len(pictures) == 12
    for each in pictures:
        (original,) = EXAMPLES.glob(f"*/{each.name}")
        assert each.read_bytes() == original.read_bytes()
