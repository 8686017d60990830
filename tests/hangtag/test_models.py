"""``hangtag models list`` and ``show``: the description of a repository, of a model and of a route."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hangtag.export.repository import inventory
from tests.kit import unbatchable_models
from tests.kit.command import hangtag, invoke, last_line, refusal, without
from tests.kit.onnx_file import with_metadata
from tests.kit.onnx_models import classifier, publish, publish_route, unbatched
from tests.kit.shipped import MODELS


def lines(*arguments: object, models: Path) -> list[str]:
    return invoke("models", *arguments, "--models", models).stdout.splitlines()


def text(*arguments: object, models: Path) -> str:
    return " ".join(" ".join(lines(*arguments, models=models)).split())


def read(*arguments: object, models: Path) -> Any:
    return json.loads(invoke("models", *arguments, "--models", models, "--json").stdout)


def test_it_lists_every_version_of_every_model(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "lstm", tmp_path / "lstm")
    publish(tmp_path, "foreign", classifier(), version=3)
    publish(tmp_path, "broken", classifier()).write_bytes(b"not a model")
    (tmp_path / ".publishing-x" / "1").mkdir(parents=True)
    rows = [line.split() for line in lines("list", models=tmp_path)]
    assert [row[0] for row in rows] == ["model", "broken", "foreign", "lstm", "lstm"]
    broken, foreign, newer, older = rows[1:]
    assert broken[6:] == ["cannot", "be", "loaded", "-", "-", "-"]
    assert (foreign[1], foreign[3], foreign[-2]) == ("3", "-", "yes")
    assert (newer[1:4], older[1:4]) == (["2", "yes", "fp32"], ["1", "-", "fp32"])
    assert newer[7].endswith("%")
    assert " ".join(newer[9:]).startswith("recipe best, seed 0, trained 20")

    listed = {row["model"]: row for row in read("list", models=tmp_path)}
    assert listed["foreign"]["version"] == 3
    assert "cannot be loaded by ONNX Runtime" in listed["broken"]["trouble"]
    assert 0.85 < listed["lstm"]["test_accuracy"] < 0.95


def test_a_file_that_is_removed_during_the_listing_has_no_size(tmp_path: Path) -> None:
    file = publish(tmp_path, "mirrored", classifier())
    entry = inventory.find(tmp_path, "mirrored")
    file.unlink()
    assert entry.megabytes == 0


def test_it_says_why_requests_are_not_joined(tmp_path: Path) -> None:
    publish(tmp_path, "foreign", classifier())
    publish(tmp_path, "softmax", unbatchable_models.softmax({"hangtag.batched": "true"}))
    publish(tmp_path, "unbatched", unbatched())
    listed = {row["model"]: (row["batched"], row.get("unbatched_because", "")) for row in read("list", models=tmp_path)}
    assert listed["foreign"] == (True, "")
    (softmax, why), (fixed, fixed_because) = listed["softmax"], listed["unbatched"]
    assert (softmax, fixed) == (False, False)
    assert "differs between a batch of 1 and a batch of 2" in why
    assert fixed_because == "the first axis of 'x' is fixed to 4"
    shown = lines("list", models=tmp_path)
    assert [line.split()[-2] for line in shown[1:4]] == ["yes", "no", "no"]
    assert shown[4:] == [
        f"softmax version 1 is not batched: {why}",
        f"unbatched version 1 is not batched: {fixed_because}",
    ]
    assert f"batched no unbatched because {why}" in text("show", "softmax", models=tmp_path)
    verified = invoke("models", "verify", "softmax", "--models", tmp_path, exit_code=1)
    assert "DOES NOT HOLD batching" in " ".join(verified.stdout.split())


def test_a_missing_repository_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    missing = refusal("models", "list", "--models", tmp_path / "none")
    assert str(tmp_path / "none") in missing
    assert "--models" in missing
    assert "hangtag export" in text("list", models=tmp_path)


def test_a_folder_without_a_version_is_named_in_the_words_of_the_server(tmp_path: Path) -> None:
    publish(tmp_path, "stray", classifier()).rename(tmp_path / "stray/model.onnx")
    for alone in (True, False):
        if not alone:
            publish(tmp_path, "other", classifier())
        refused = last_line(hangtag("serve", "--models", str(tmp_path)).stderr)
        listed = invoke("models", "list", "--models", tmp_path)
        assert refused == f"Error: {listed.stderr.rstrip()}"
        assert f"{tmp_path / 'stray'} has no version to serve: expected " in refused
        assert ("other" in listed.stdout, "has no models" in listed.stdout) == (not alone, False)


def test_it_shows_a_model(proven: Path) -> None:
    shown = lines("show", "lstm-56", models=proven)
    assert all(line[0] != " " and line == line.rstrip() for line in shown)  # output to a pipe is not wrapped
    words = " ".join(" ".join(shown).split())
    for part in (
        "inputs image: UINT8 [any, 28, 28]", "outputs logits: FP32 [any, 10]", "Sneaker, Bag, Ankle boot",
        "LSTM 1", "seed 0", "gate parity limit 0.0001", "gate cuda outcome ", "graph digest",
        "precision fp32",
    ):  # fmt: skip
        assert part in words, part
    document = read("show", "lstm-56", models=proven)
    assert document["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert document["operators"]["LSTM"] == 1
    assert document["gate"]["agreement"]["images"] == 10_000
    assert document["provenance"]["recipe"] == "study"
    assert "processor" in document["provenance"]


def test_without_a_subcommand_it_lists(proven: Path) -> None:
    listed = lines("list", models=proven)
    assert [line.split()[0] for line in listed] == ["model", "lstm-56"]
    assert lines(models=proven) == listed
    assert read(models=proven)[0]["model"] == "lstm-56"
    assert invoke("models", variables={"HANGTAG_MODELS_LIST_MODELS": str(proven)}).stdout.splitlines() == listed
    assert "verify" in invoke("models", "-h").stdout
    invoke("models", "--json", "show", "lstm-56", exit_code=2)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("test_accuracy", "much", "model lstm version 1"),
        ("gate", '{"parity": {"limit": {"a": "text", "b": [1]}}}', "gate parity limit {'a': 'text'"),
        ("gate", "[1]", "model lstm version 1"),
    ],
)
def test_one_file_with_strange_metadata_hides_no_other(
    key: str, value: str, shown: str, proven: Path, tmp_path: Path
) -> None:
    publish(tmp_path, "lstm", with_metadata(proven / "lstm-56/1/model.onnx", **{key: value}))
    publish(tmp_path, "another", classifier())
    assert len(lines("list", models=tmp_path)) == 3
    assert shown in text("show", "lstm", models=tmp_path)


def test_an_unknown_model_or_version_is_answered_with_the_existing_ones(proven: Path) -> None:
    unknown = refusal("models", "show", "cnn", "--models", proven)
    assert "'cnn'" in unknown
    assert "lstm-56" in unknown
    assert "has no version 7; there are 1." in refusal("models", "show", "lstm-56", "--version", 7, "--models", proven)


@pytest.mark.parametrize("command", ["list", "show", "verify"])
def test_it_needs_neither_torch_nor_onnx(command: str, proven: Path) -> None:
    """A machine that only serves models has neither PyTorch nor the package onnx."""
    name = [] if command == "list" else ["lstm-56"]
    done = without(["torch", "onnx", "onnxscript"], "models", command, *name, "--models", proven)
    assert done.returncode == 0, done.stderr
    assert ("the package onnx is not installed" in " ".join(done.stdout.split())) == (command != "list")


# Routes.


@pytest.fixture
def routes(tmp_path: Path) -> Path:
    publish(tmp_path, "one", classifier(), version=3)
    half = 'split = {one = 50, "one@2" = 25, deep = 25}\nsticky = "x-id"\ndescription = "[b]y hand."'
    publish_route(tmp_path, "half", half)
    return publish_route(tmp_path, "deep", 'split = {one = 100}\nshadow = {model = "one@3", share = 0.1}')


def test_an_int8_files_difference_is_shown_for_the_test_pictures() -> None:
    differences = read("show", "cnn-int8", models=MODELS)["gate"]["parity"]["max_logit_difference"]
    assert max(differences["test"].values()) < max(differences["black"].values())
    largest = max(differences["test"].values())
    assert f"max logit difference {largest:.4g} " in text("show", "cnn-int8", models=MODELS)


def test_the_shipped_route_is_shown_with_its_members_its_rule_and_where_that_came_from() -> None:
    members = [read("show", name, models=MODELS) for name in ("cnn-small-int8", "cnn-int8")]
    document = read("show", "fast-and-accurate", models=MODELS)
    assert document["members"] == [
        {key: member[key] for key in ("model", "version", "test_accuracy")} for member in members
    ]
    assert (document["kind"], document["on_overload"], document["shadow"]) == ("cascade", "answer", None)
    assert document["accept"]["output"] == "probabilities"
    shown = text("show", "fast-and-accurate", models=MODELS)
    for place, member in enumerate(members, 1):
        described = f"model {member['model']}, version {member['version']}, test accuracy {member['test_accuracy']:.4g}"
        assert f"members {place} {described} " in shown
    assert shown.startswith("route fast-and-accurate kind cascade ")
    assert f"accept output probabilities accept at least {document['accept']['at_least']:g} on overload answer" in shown
    assert f"expected sent on {document['expected_sent_on']:.4g} " in shown
    assert "description Chosen by 'hangtag choose " in shown


def test_a_split_is_shown_with_its_shares_and_what_is_wrong_with_a_member(routes: Path) -> None:
    shown = text("show", "half", models=routes)
    assert "members 1 model one, version 3 members 2 model one@2, trouble " in shown
    assert "has no version 2; there are 3. members 3 model deep, is route yes shares 50, 25, 25 sticky x-id " in shown
    assert "description [b]y hand." in shown
    assert "shadow share 0.1 shadow model one shadow version 3" in text("show", "deep", models=routes)
    document = read("show", "half", models=routes)
    assert (document["shares"], document["sticky"]) == ([50, 25, 25], "x-id")
    assert document["members"][0] == {"model": "one", "version": 3}
    assert document["members"][2] == {"model": "deep", "is_route": True}
    assert read("show", "deep", models=routes)["shadow"] == {"share": 0.1, "model": "one", "version": 3}


def test_a_spoiled_route_is_named_with_its_mistake(routes: Path) -> None:
    (routes / "deep/route.toml").write_text("split = {one = 90}")
    error = refusal("models", "show", "deep", "--models", routes)
    assert str(routes / "deep/route.toml") in error
    assert "whose shares are above 0 and add up to 100" in error
    assert "whose shares are above 0 and add up to 100" in text("list", models=routes)
    assert "whose shares are above 0 and add up to 100" in read("list", models=routes)[1]["trouble"]


def test_a_route_is_listed_and_refused_where_a_version_is_wanted(routes: Path) -> None:
    deep, half = lines("list", models=routes)[-2:]
    assert deep.split() == ["deep", "split", "one@3", "100%"]
    assert half.split() == ["half", "split", "one@3", "50%,", "one@2", "(missing)", "25%,", "deep", "25%"]
    for command in ("show half --version 1", "promote half 1", "rollback half", "verify half"):
        assert "half is a route" in refusal("models", *command.split(), "--models", routes)
    listed = read("list", models=routes)
    assert [entry.get("model", entry.get("route")) for entry in listed] == ["one", "deep", "half"]
    assert listed[1] == read("show", "deep", models=routes)
