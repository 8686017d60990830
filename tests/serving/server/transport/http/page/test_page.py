"""The page in Chromium, with a real server: clicks, keys, drawings, and real answers."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image
from playwright.sync_api import Browser, expect

from hangtag import Client, Credentials
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import shipped
from tests.kit.live import LiveServer
from tests.serving.server.transport.http.page.shown import HOSTILE, Shown, shown_page

pytestmark = pytest.mark.slow

EXAMPLES = shipped.MODELS.parent / "examples"
# Fires what a browser fires when a person drops or pastes a file.
HAND_OVER = """([event, type, content, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name, {type: 'image/png'}));
  const options = {bubbles: true, cancelable: true};
  document.dispatchEvent(event === 'paste' ? new ClipboardEvent(event, {...options, clipboardData: data})
    : new DragEvent(event, {...options, dataTransfer: data}));
}"""


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
        path = f"{shipped.MODELS.parent / '.venv-peers/bin'}:{os.environ['PATH']}"
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
    words = "the image is not a PNG, JPEG or WebP file; convert it to one of them"
    assert page.texts(".answer[data-model='lstm'] .refusal p") == [words]
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
        (tmp_path / name).write_text("sesame-open-the-door-please\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "CA_FILE"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    config = ServerConfig(
        models=models,
        port=0,
        http_port=0,
        instances=1,
        model_control="explicit",
        load_model=("lstm",),
        token_file=tmp_path / "tokens",
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.pem",
    )
    with LiveServer(config) as server, browser.new_context(ignore_https_errors=True) as context:
        page = Shown(context.new_page(), f"https://{server.server.http_address}/")
        token = page.page.get_by_label("This server wants a token.")
        token.fill("wrong")
        page.page.keyboard.press("Enter")
        expect(page.page.locator("#refusal")).to_contain_text("token")
        token.fill("sesame-open-the-door-please")
        page.page.keyboard.press("Enter")
        page.wait_for_answers()
        expect(token).to_be_hidden()
        assert "sesame" not in page.code("curl")
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
