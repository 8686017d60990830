"""``hangtag models`` about routes: what it shows of them, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.hangtag.proven import models
from tests.kit.onnx_models import classifier, publish
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def route(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "route.toml").write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    publish(tmp_path, "one", classifier(), version=3)
    route(tmp_path, "half", 'split = {one = 50, "one@2" = 25, deep = 25}\nsticky = "x-id"\ndescription = "[b]y hand."')
    route(tmp_path, "deep", 'split = {one = 100}\nshadow = {model = "one@3", share = 0.1}')
    return tmp_path


def test_the_shipped_route_is_shown_with_its_members_its_rule_and_where_that_came_from() -> None:
    lines = [
        line.split(maxsplit=1) for line in models("show", "fast-and-accurate", "--models", MODELS).stdout.splitlines()
    ]
    shown = dict(lines)
    assert shown["route"] == "fast-and-accurate, a cascade"
    assert [line[1] for line in lines if line[0] == "stage"] == [
        "1      lstm version 2, test accuracy 93.09%",
        "2      cnn version 3, test accuracy 95.11%",
    ]
    assert shown["accept"] == "output probabilities, at_least 0.92"
    assert shown["on_overload"] == "answer"
    assert shown["expected"] == "19.3% of the samples go on to stage 2"
    assert shown["description"].startswith("Chosen by 'hangtag route tune lstm cnn --lose-at-most 0.05' on 20")
    document = json.loads(models("show", "fast-and-accurate", "--models", MODELS, "--json").stdout)
    assert document["members"] == [
        {"model": "lstm", "version": 2, "test_accuracy": 0.9309},
        {"model": "cnn", "version": 3, "test_accuracy": 0.9511},
    ]
    assert document["expected_sent_on"] == 0.1926
    assert document["accept"] == {"output": "probabilities", "at_least": 0.92}
    assert (document["kind"], document["on_overload"], document["shadow"]) == ("cascade", "answer", None)


def test_a_split_is_shown_with_its_shares_and_what_is_wrong_with_a_member(repository: Path) -> None:
    shown = models("show", "half", "--models", repository)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.stdout.split())
    assert "share 50% one version 3 share 25% one@2: " in text
    assert "has no version 2; there are 3. share 25% deep, a route sticky x-id description [b]y hand." in text
    assert "shadow one version 3, of 10% of the requests" in " ".join(
        models("show", "deep", "--models", repository).stdout.split()
    )
    document = json.loads(models("show", "half", "--models", repository, "--json").stdout)
    assert (document["shares"], document["sticky"]) == ([50, 25, 25], "x-id")
    assert document["members"][0] == {"model": "one", "version": 3}
    assert document["members"][2] == {"model": "deep", "is_route": True}
    shadow = json.loads(models("show", "deep", "--models", repository, "--json").stdout)["shadow"]
    assert shadow == {"share": 0.1, "model": "one", "version": 3}


def test_a_spoiled_route_is_named_with_its_mistake(repository: Path) -> None:
    (repository / "deep/route.toml").write_text("split = {one = 90}")
    result = models("show", "deep", "--models", repository)
    assert result.exit_code == 1
    mistake = "split: the shares must add up to 100 (percent); these add up to 90"
    assert result.stderr.startswith(f"Error: {repository / 'deep/route.toml'}: {mistake}")
    assert "deep   -      " in (listed := models("list", "--models", repository).stdout)
    assert mistake in " ".join(listed.split())
    assert mistake in json.loads(models("--json", "--models", repository).stdout)[1]["trouble"]


def test_a_route_is_listed_and_refused_where_a_version_is_wanted(repository: Path) -> None:
    deep, half = models("list", "--models", repository).stdout.splitlines()[-2:]
    assert deep.split() == ["deep", "split", "one@3", "100%"]
    assert half.split() == ["half", "split", "one@3", "50%,", "one@2", "(missing)", "25%,", "deep", "25%"]
    for command in (
        ("show", "half", "--version", "1"),
        ("promote", "half", "1"),
        ("rollback", "half"),
        ("verify", "half"),
    ):
        result = models(*command, "--models", repository)
        assert (result.exit_code, "half is a route" in result.stderr) == (1, True), command
    listed = json.loads(models("--json", "--models", repository).stdout)
    assert [entry.get("model", entry.get("route")) for entry in listed] == ["one", "deep", "half"]
    assert listed[1] == json.loads(models("show", "deep", "--models", repository, "--json").stdout)
