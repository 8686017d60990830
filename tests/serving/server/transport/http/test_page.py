"""The page in Chromium, with a real server: clicks, keys, drawings, real answers, and the files that it is made of."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from hangtag import Client, Credentials
from tests.kit import onnx_models, shipped
from tests.kit.browser import chromium
from tests.kit.certificates import TOKEN, Certificates
from tests.kit.live import LiveServer
from tests.kit.over_http import live_server
from tests.kit.rest import Rest
from tests.serving.server.transport.http.shown_page import (
    FOCUSED,
    HAND_OVER,
    HOSTILE,
    HOSTILE_METADATA,
    REACHABLE,
    Shown,
    shown_page,
)

pytestmark = pytest.mark.slow

ROOT = shipped.MODELS.parent
EXAMPLES = ROOT / "examples"
STATIC = ROOT / "serving/server/transport/http/page/static"
COLOUR = re.compile(r"(--[\w-]+): (#\w+);")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier in two versions, one of sets, one with HTML as labels, one that takes no pictures, and routes."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(shipped.MODELS / "lstm")
    (models / "cnn_rnn").symlink_to(EXAMPLES / "outfits/models/cnn_rnn")
    hostile = onnx_models.classifier(labels=HOSTILE)
    for name, value in HOSTILE_METADATA.items():
        hostile.metadata_props.add(key=f"hangtag.{name}", value=value)
    onnx_models.publish(models, "hostile", hostile)
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    for name, at_least in (("sure", 0), ("unsure", 1)):
        (models / name).mkdir()
        (models / name / "route.toml").write_text(
            'cascade = ["lstm@1", "lstm@2"]\n'
            f'accept = {{output = "probabilities", at_least = {at_least}}}\n'
            'description = "<b>Chosen</b> by hand."'
        )
    (models / "canary").mkdir()
    (models / "canary/route.toml").write_text(
        'split = {"lstm@2" = 100}\nsticky = "x-user-id"\nshadow = {model = "lstm", share = 0.25}'
    )
    return models


@pytest.fixture(scope="module")
def shown(models: Path) -> Iterator[LiveServer]:
    """A server that the tests leave as it is."""
    with live_server("native", models, http_port=0, num_versions=2, instances=1) as server:
        yield server


@pytest.fixture(scope="module")
def page(browser: Browser, shown: LiveServer) -> Iterator[Shown]:
    """One page for tests that do one thing after another, as a person does."""
    with shown_page(browser, shown.server.http_address, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page
        assert page.seen.complaints == []


@pytest.fixture(scope="module")
def client(shown: LiveServer) -> Iterator[Client]:
    with Client(shown.server.address) as client:
        yield client


def labels_by_code(page: Shown, folder: Path) -> dict[str, list[list[str]]]:
    """Run the code that the page offers, as it is copied, and return the labels of each model by the language."""
    found = {}
    for language in ("curl", "Python", "grpcurl"):
        code = page.code(language)
        command = [sys.executable, "-c", code] if language == "Python" else ["bash", "-c", code]
        path = f"{ROOT / '.venv-peers/bin'}:{os.environ['PATH']}"
        run = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found[language] = _printed(run.stdout) if language == "Python" else _answered(run.stdout)
    return found


def _answered(output: str) -> list[list[str]]:
    answer = json.loads(output)
    outcomes = answer.get("outcomes", [{"answer": answer}])
    return [[label["label"] for label in outcome["answer"]["labels"]] for outcome in outcomes]


def _printed(output: str) -> list[list[str]]:
    """One label a line, or, of several models, one model a line: NAME, LABEL SHARE%, ..."""
    lines = [re.sub(r" [\d.]+%", "", line).split(", ") for line in output.splitlines()]
    return [line[1:] for line in lines] if "," in output else [[line[0] for line in lines]]


def picture(name: str) -> bytes:
    return (EXAMPLES / name).read_bytes()


def test_the_first_example_is_answered_at_once_and_nothing_is_broken(page: Shown, client: Client) -> None:
    page.choose("lstm", "lstm@1")
    answer = client.classify(picture("garments/t-shirt-top-2.png"), "lstm")
    assert page.labels("lstm") == [label.name for label in answer.labels]
    assert page.shares("lstm") == [f"{label.probability:.1%}" for label in answer.labels]
    assert page.texts(".answer[data-model='lstm'] .distance") == [
        f"distance {label.distance:.2f}" for label in answer.labels[1:]
    ]
    assert page.texts(".answer[data-model='lstm@1'] h3") == ["lstm version 1"]
    assert page.texts(".answer[data-model='lstm'] .times dt") == ["decoding", "queue", "compute", "network"]
    for width, scheme in ((1200, "light"), (390, "dark"), (390, "light"), (1200, "dark")):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.seen.overflowing == []
        assert page.seen.broken == []
        page.seen.require_scheme(scheme)


def test_a_set_of_labels_is_shown_in_the_order_predicted(page: Shown, client: Client) -> None:
    page.choose("cnn_rnn")
    example = page.page.get_by_role("button", name="Pullover, coat, sandal")
    example.focus()
    page.ask(lambda: page.page.keyboard.press("Enter"))
    answer = client.classify(picture("outfits/1-pullover-coat-sandal.png"), "cnn_rnn")
    assert page.labels("cnn_rnn") == [label.name for label in answer.labels]
    assert f"{answer.path_probability:.1%}" in page.texts(".answer .path + p")[0]


def test_a_drawing_is_sent_as_a_small_picture_white_on_black(page: Shown, client: Client) -> None:
    page.choose("lstm")
    page.page.get_by_text("Draw", exact=True).click()
    pad = page.page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    mouse = page.page.mouse
    mouse.move(box["x"] + 150, box["y"] + 60)
    mouse.down()
    mouse.move(box["x"] + 150, box["y"] + 230)
    page.ask(mouse.up)
    with page.page.expect_download() as download:
        page.page.get_by_role("link", name="drawing.png").click()
    drawing = Path(download.value.path()).read_bytes()
    grey = np.asarray(Image.open(io.BytesIO(drawing)).convert("L"))
    assert grey.shape == (28, 28)
    assert grey[:, :5].max() == 0
    assert grey[8:18, 13:15].min() > 200
    assert page.labels("lstm") == [label.name for label in client.classify(drawing, "lstm").labels]
    page.ask(lambda: page.page.get_by_text("Choose", exact=True).click())


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(page: Shown, client: Client, way: str) -> None:
    content = picture("garments/bag-2.png")
    arguments = [way, "image/png", base64.b64encode(content).decode(), f"it's by {way}.png"]
    page.ask(lambda: page.page.evaluate(HAND_OVER, arguments))
    assert page.labels("lstm") == [label.name for label in client.classify(content, "lstm").labels]
    expect(page.page.locator("#about")).to_have_text(f"it's by {way}.png, 28 × 28, {len(content)} bytes")  # noqa: RUF001 - as it is shown


def test_the_code_gives_the_same_answers(page: Shown, client: Client, tmp_path: Path) -> None:
    (tmp_path / "it's by drop.png").write_bytes(picture("garments/bag-2.png"))
    for models in (["cnn_rnn", "lstm"], ["lstm", "lstm@1"]):
        page.choose(*models)
        expected = [page.labels(model) for model in models]
        assert labels_by_code(page, tmp_path) == {"curl": expected, "Python": expected, "grpcurl": expected}


def test_labels_are_never_read_as_html_and_malformed_metadata_is_left_out(page: Shown) -> None:
    page.choose("hostile")
    assert len(page.labels("hostile")) == 3
    assert set(page.labels("hostile")) <= set(json.loads(HOSTILE))
    assert page.page.title() != "taken"
    card = page.page.locator("#models article", has_text="hostile").inner_text()
    assert "checked before it was published" in card
    assert "parameters" not in card


def test_copy_copies_the_code(page: Shown) -> None:
    page.code("curl")
    page.page.keyboard.press("ArrowRight")
    code = page.page.locator("#snippet").inner_text()
    assert code.startswith("from pathlib import Path")
    page.page.get_by_role("button", name="Copy").click()
    expect(page.page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.page.evaluate("() => navigator.clipboard.readText()") == code


def test_models_are_shown_with_what_proves_them(page: Shown, client: Client) -> None:
    facts = client.parameters("lstm")
    card = page.page.locator("#models article", has_text="lstm version 2").inner_text()
    assert f"{float(facts['hangtag.test_accuracy']):.2%}" in card
    assert "proven" in card
    assert "image UINT8 [batch, 28, 28]" in card
    other = page.page.locator("#models article", has_text="two_inputs").inner_text()
    assert "Its file holds no proof." in other
    assert "a FP32 [batch, 3]" in other


def test_a_route_says_which_member_answered_and_what_each_stage_cost(page: Shown, client: Client) -> None:
    page.choose("sure", "unsure", "canary")
    for route, sentence, parts in (
        ("sure", "lstm@1 answered, and was sure.", ["decoding", "queue", "compute", "network"]),
        (
            *("unsure", "lstm@1 was not sure, so lstm@2 answered."),
            ["decoding", "lstm@1 queue", "lstm@1 compute", "lstm@2 queue", "lstm@2 compute", "network"],
        ),
        ("canary", "lstm@2 answered.", ["decoding", "queue", "compute", "network"]),
    ):
        card = f".answer[data-model='{route}']"
        assert page.texts(f"{card} .who") == [sentence]
        assert page.texts(f"{card} .times dt") == parts
        assert page.texts(f"{card} h3") == [f"{route} route"]
        assert page.page.locator(f"{card} .bar span").count() == len(parts)
    assert page.labels("unsure") == [
        label.name for label in client.classify(picture("garments/bag-2.png"), "lstm@2").labels
    ]
    for width in (390, 1200):
        page.page.set_viewport_size({"width": width, "height": 900})
        assert page.seen.overflowing == []


def test_a_route_is_described_by_its_members_its_rule_and_its_own_words(page: Shown) -> None:
    card = page.page.locator("#models article", has_text="unsure route").inner_text()
    assert "<b>Chosen</b> by hand." in card
    assert "lstm@1, then lstm@2" in card
    assert "the highest of probabilities is at least 1;" in card
    assert "Its file holds no proof" not in card
    canary = page.page.locator("#models article", has_text="canary route").inner_text()
    assert "lstm@2 100%" in canary
    assert "calls with the same x-user-id go to the same member" in canary
    assert "lstm gets copies of 25% of the requests" in canary
    assert "Its file has no description." in canary


def test_the_calls_of_a_route_to_its_members_are_not_counted_as_callers(page: Shown) -> None:
    """Two calls of one route with two stages, and nothing else, are two calls."""
    page.choose("unsure")
    total = """async () => {
      const { parse } = await import('/page/live.js');
      return parse(await (await fetch('/metrics')).text()).total;
    }"""
    before = page.page.evaluate(total)
    for _ in range(2):
        page.ask(lambda: page.page.get_by_role("button", name="Bag", exact=True).click())
    assert page.page.evaluate(total) - before == 2


def test_the_strip_counts_calls(page: Shown) -> None:
    expect(page.page.locator("#strip rect.busy").first).to_be_visible()
    expect(page.page.locator("#p99")).to_contain_text("ms")


def test_a_refusal_is_shown_in_the_servers_words(page: Shown) -> None:
    page.choose("lstm")
    broken = {"name": "a text.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.ask(lambda: page.page.locator("#file").set_input_files(broken))  # type: ignore[arg-type]
    (refusal,) = page.texts(".answer[data-model='lstm'] .refusal p")
    assert "not a PNG, JPEG or WebP file" in refusal
    assert ["status of 400" in complaint for complaint in page.seen.complaints] == [True]
    page.seen.complaints.clear()


def look_again(page: Shown) -> None:
    """Let the page read the metrics now, as if the person had come back from another tab."""
    page.page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_a_page_takes_a_token_and_sees_models_come_and_the_server_end(
    browser: Browser, models: Path, tmp_path: Path
) -> None:
    # The files that the code names in capitals, in the folder that it runs in.
    for name in ("tokens", "TOKEN_FILE"):
        (tmp_path / name).write_text(TOKEN)
    certificates = Certificates(tmp_path / "certificates")
    (tmp_path / "CA_FILE").symlink_to(certificates.ca())
    files = certificates.server(token_file=tmp_path / "tokens")
    loaded: dict[str, Any] = {"model_control": "explicit", "load_model": ("lstm",)}
    secured = live_server("grpc", models, http_port=0, instances=1, **loaded, **files)
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
        (tmp_path / "t-shirt-top-2.png").write_bytes(picture("garments/t-shirt-top-2.png"))
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


def test_keys_draw(browser: Browser, shown: LiveServer) -> None:
    with shown_page(browser, shown.server.http_address) as page:
        page.choose("lstm")
        keyboard = page.page.keyboard
        page.page.get_by_label("Choose", exact=True).focus()
        keyboard.press("ArrowRight")
        keyboard.press("Tab")
        expect(page.page.locator("#pad")).to_be_focused()
        pen = page.page.locator("#pen")
        expect(pen).to_be_visible()
        for key, times in (("ArrowUp", 9), (" ", 1), ("ArrowDown", 18)):
            for _ in range(times):
                keyboard.press(key)
        expect(pen).to_have_class("down")
        page.ask(lambda: keyboard.press(" "))
        expect(pen).not_to_have_class("down")
        with page.page.expect_download() as download:
            page.page.get_by_role("link", name="drawing.png").click()
        grey = np.asarray(Image.open(Path(download.value.path())).convert("L"))
        assert max(grey[:, :10].max(), grey[:3].max()) < 5
        assert grey[6:22, 13:15].min() > 200
        drawing = Path(download.value.path()).read_bytes()
        with Client(shown.server.address) as client:
            assert page.labels("lstm") == [label.name for label in client.classify(drawing, "lstm").labels]


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


def test_a_server_can_do_without_the_page(models: Path) -> None:
    explicit = live_server("grpc", models, http_port=0, model_control="explicit", no_page=True)
    with explicit as server, Rest(server.server.http_address) as rest:
        assert [rest.get(path).status for path in ("/", "/page/main.js", "/v2")] == [404, 404, 200]


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
