"""A person's actions on one page in Chromium, one after another, and what the page shows. The server is real."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from hangtag import Client
from hangtag.page.series import looks
from tests.kit.browser import require_accessible
from tests.kit.live import LiveServer
from tests.serving.server.transport.http.shown_page import (
    HAND_OVER,
    HOSTILE,
    Shown,
    labels_by_code,
    picture,
    shown_page,
)


@pytest.fixture(scope="module")
def page(browser: Browser, shown: LiveServer) -> Iterator[Shown]:
    """A single page, on which the tests act one after another, as a person does."""
    with shown_page(browser, shown.server.http_address, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page
        assert page.seen.complaints == []


@pytest.fixture(scope="module")
def client(shown: LiveServer) -> Iterator[Client]:
    with Client(shown.server.address) as client:
        yield client


def test_the_first_example_is_answered_at_once_and_nothing_is_broken(page: Shown, client: Client) -> None:
    page.choose("lstm", "lstm@1")
    answer = client.classify(picture("garments/shirt-1.png"), "lstm")
    assert page.labels("lstm") == [label.name for label in answer.labels]
    assert page.shares("lstm") == [f"{label.probability:.1%}" for label in answer.labels]
    assert page.texts(".answer[data-model='lstm'] .distance") == [
        f"distance {label.distance:.2f}" for label in answer.labels[1:]
    ]
    assert page.texts(".answer[data-model='lstm@1'] h3") == ["lstm version 1"]
    assert page.texts(".answer[data-model='lstm'] .times dt") == ["decoding", "queue", "compute", "network"]
    for width, scheme in ((1200, "light"), (390, "dark"), (390, "light"), (1920, "dark")):
        page.page.set_viewport_size({"width": width, "height": 900})
        page.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.seen.faults == []
        page.seen.require_scheme(scheme)


def test_a_screen_reader_stumbles_over_nothing(browser: Browser, shown: LiveServer) -> None:
    require_accessible(browser, f"http://{shown.server.http_address}/")


def test_a_model_has_the_colour_that_it_has_in_reports(page: Shown) -> None:
    names = [f"garments-{number}é" for number in range(20)]
    colours = "names => import('/page/models/colours.js').then(({ giveColours }) => giveColours(names))"
    assert page.page.evaluate(colours, names) == [f"var({look.variable})" for look in looks(names).values()]
    assert "var(--series-" in (page.page.locator("#chooser label").first.get_attribute("style") or "")


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
    drawing, grey = page.drawing()
    assert grey[:, :5].max() == 0
    assert grey[8:18, 13:15].min() > 200
    assert page.labels("lstm") == [label.name for label in client.classify(drawing, "lstm").labels]
    page.ask(lambda: page.page.get_by_text("Choose", exact=True).click())


def test_a_model_of_other_pictures_has_its_own_examples_size_and_colours(page: Shown, client: Client) -> None:
    page.choose("colours")
    assert (page.examples(), page.examples(shown=True)) == (["red", "green", "blue"], ["red"])
    assert page.labels("colours")[0] == "red"
    page.page.get_by_text("Draw", exact=True).click()
    page.page.get_by_label("Colour of the brush").fill("#0000ff")
    page.page.locator("#pad").focus()
    for key in (" ", "ArrowLeft"):
        page.page.keyboard.press(key)
    pen = page.page.locator("#pen")
    expect(pen).to_be_visible()
    expect(pen).to_have_class("down")
    page.ask(lambda: page.page.keyboard.press(" "))
    expect(pen).not_to_have_class("down")
    drawing, grey = page.drawing(24, 36)
    assert grey[0, 0] == 255  # the model's file records that it expects bright pictures
    assert page.labels("colours")[0] == "blue"
    assert page.labels("colours") == [label.name for label in client.classify(drawing, "colours").labels]
    assert "garment" not in page.page.locator(".picture").inner_text()
    page.ask(lambda: page.page.get_by_text("Choose", exact=True).click())
    page.choose("lstm")
    assert page.examples(shown=True) == ["Shirt"]


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
    assert "against PyTorch: a logit differs by at most" in card
    assert "image UINT8 [batch, 28, 28]" in card
    converted = page.page.locator("#models article", has_text="colours").inner_text()
    assert "proven 7 images, against the FP32 file: a logit differs by at most 2.5e-1, allowed 5e-1." in converted
    other = page.page.locator("#models article", has_text="two_inputs").inner_text()
    assert "Its file has no validation record." in other
    assert "a FP32 [batch, 3]" in other


def test_a_route_says_which_member_answered_and_what_each_stage_cost(page: Shown, client: Client) -> None:
    page.choose("sure", "unsure", "canary")
    for route, sentence, parts in (
        ("sure", "lstm@1 answered, and was sure.", ["decoding", "queue", "compute", "network"]),
        (
            "unsure",
            "lstm@1 was not sure, so lstm@2 answered.",
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
        assert page.seen.faults == []


def test_a_route_is_described_by_its_members_its_rule_and_its_own_words(page: Shown) -> None:
    card = page.page.locator("#models article", has_text="unsure route").inner_text()
    assert "<b>Chosen</b> by hand." in card
    assert "lstm@1, then lstm@2" in card
    assert "the highest of probabilities is at least 1;" in card
    assert "Its file has no validation record" not in card
    canary = page.page.locator("#models article", has_text="canary route").inner_text()
    assert "lstm@2 100%" in canary
    assert "calls with the same x-user-id go to the same member" in canary
    assert "lstm gets copies of 25% of the requests" in canary
    assert "Its file has no description." in canary


def test_the_calls_of_a_route_to_its_members_are_not_counted_as_callers(page: Shown) -> None:
    """The route has two stages, but two calls count as two, not as four."""
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
    """The first two readings are only 0.1 s apart, so they give no rate. In the 2 s after them, 4 calls arrive."""
    shown = page.page.evaluate("""async () => {
      const { Live, parse } = await import('/page/live.js');
      const live = new Live(() => {}, () => {});
      const rates = [[-0.1, 0], [0, 1], [2, 5], [4, 5]].map(([at, calls]) => {
        const lines = ['count{code="OK"} ', 'bucket{code="OK",le="0.01"} '];
        live.keep({ ...parse(lines.map((line) => `hangtag_request_seconds_${line}${calls}`).join('\\n')), at });
        live.show();
        return document.getElementById('rate').textContent;
      });
      const busy = [...document.querySelectorAll('#strip rect')].map((bar) => bar.classList.contains('busy'));
      return [busy, rates, document.getElementById('p99').textContent];
    }""")
    assert shown == [[True, False], ["\u2013", "\u2013", "2.0", "1.0"], "9.90 ms"]


def test_a_refusal_is_shown_in_the_servers_words(page: Shown) -> None:
    page.choose("lstm")
    broken = {"name": "a text.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.ask(lambda: page.page.locator("#file").set_input_files(broken))  # type: ignore[arg-type]
    (refusal,) = page.texts(".answer[data-model='lstm'] .refusal p")
    assert "not a PNG, JPEG or WebP file" in refusal
    assert ["status of 400" in complaint for complaint in page.seen.complaints] == [True]
    page.seen.complaints.clear()
