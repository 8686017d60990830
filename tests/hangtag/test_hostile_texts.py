"""Texts in a model's file or in a route's file cannot manipulate the terminal that shows them."""

import json
from pathlib import Path

import pytest

from tests.kit.command import invoke
from tests.kit.onnx_file import with_metadata
from tests.kit.onnx_models import LABELS, classifier, publish, publish_route

HOSTILE = "\x1b[31mred\nmodel  ready [link=https://example.org]x[/link]"
SHOWN = "\\x1b[31mred\\nmodel ready [link=https://example.org]x[/link]"
HARMLESS = "größer als 8 µm ✓"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    labels = json.dumps([HOSTILE, HARMLESS, *LABELS[2:]])
    hostile = dict.fromkeys(("precision", "recipe", "source"), HOSTILE)
    publish(tmp_path, "one", with_metadata(classifier(labels=labels), **hostile))
    described = f"split = {{one = 100}}\nsticky = 'x-id'\ndescription = {json.dumps(HOSTILE)}\n"
    publish_route(tmp_path, "route", described)
    return publish_route(tmp_path, "broken", f"split = {{{json.dumps(HOSTILE)} = 100}}\n")


def shown(*arguments: object) -> str:
    """The command's output, with single spaces. Fails if a character is not printable."""
    output = invoke(*arguments).stdout
    assert all(line.isprintable() for line in output.split("\n"))
    return " ".join(output.split())


def test_models_show_prints_labels_and_metadata_with_escapes(repository: Path) -> None:
    text = shown("models", "show", "one", "--models", repository)
    assert f"labels {SHOWN}, {HARMLESS}, label 2" in text
    assert f"recipe {SHOWN}" in text
    assert json.loads(invoke("models", "show", "one", "--models", repository, "--json").stdout)["labels"][0] == HOSTILE
    described = shown("models", "show", "route", "--models", repository)
    assert "description \\x1b[31mred\\nmodel ready [link=https://example.org]x[/link]" in described


def test_models_list_prints_metadata_and_mistakes_in_routes_with_escapes(repository: Path) -> None:
    assert SHOWN in shown("models", "list", "--models", repository)
    lines = invoke("models", "list", "--models", repository).stdout.splitlines()
    assert [line.split()[0] for line in lines if line] == ["model", "one", "route", "broken", "route"]
