"""`hangtag train` on a user's own pictures, and its options for such pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hangtag.training.recipes import PICTURES, changed
from hangtag.training.runs.run import Run
from tests.kit import own_pictures
from tests.kit.command import invoke, refusal
from tests.training.small_runs import DiedError, assert_same_outcome, dying, read, weights

pytestmark = pytest.mark.slow


def train(model: str, source: str, out: Path, *options: object, **more: Any) -> dict[str, Any]:
    """Train a run with the command, and return its metrics.json."""
    usual = ("--threads", 1, "--device", "cpu", "--out", out)
    invoke("train", model, "--data", source, *usual, *options, **more)
    return read(out)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of dark cats and bright dogs, 9 x 8 pixels."""
    return f"folder:{own_pictures.folder(tmp_path_factory.mktemp('photos'), {'cats': 24, 'dogs': 24})}"


@pytest.mark.parametrize("model", ["lstm", "cnn", "cnn-small", "resnet"])
def test_networks_learn_a_few_dozen_pictures_by_the_recipe_for_them(photos: str, tmp_path: Path, model: str) -> None:
    summary = train(model, photos, tmp_path / "run")["summary"]
    assert summary["labels"] == ["cats", "dogs"]
    assert summary["validation"]["accuracy"] == summary["test"]["accuracy"] == 1  # each split has four pictures
    assert np.sum(summary["test"]["confusion"]) == 4
    assert read(tmp_path / "run", "config.json")["recipe"]["name"] == "pictures"
    assert "cats" in (tmp_path / "run/report.html").read_text()


def test_every_kind_of_source_is_trained_on_in_colour_and_of_any_size(tmp_path: Path) -> None:
    coloured = own_pictures.folder(tmp_path / "photos", {"cats": 4, "dogs": 4, "emus": 4}, (20, 30, 3))
    rows = [(str(file), file.parent.name) for file in coloured.glob("*/*")]
    listed = own_pictures.csv(tmp_path / "labels.csv", rows)
    for source, shape in ((f"csv:{listed}", (3, 16, 24)), (f"idx:{own_pictures.idx(tmp_path / 'idx')}", (1, 9, 8))):
        kind = source.partition(":")[0]
        size = ["--size", "16x24"] if kind == "csv" else []
        train("lstm", source, tmp_path / kind, *size, "--epochs", 1)
        image = read(tmp_path / kind, "config.json")["image"]
        assert (image["channels"], image["height"], image["width"]) == shape
        assert weights(tmp_path / kind)["lstm.weight_ih_l0"].shape[1] == shape[0] * shape[2]


def test_a_run_that_died_goes_on_wherever_the_pictures_are_now(photos: str, tmp_path: Path) -> None:
    here = Path(shutil.copytree(photos.removeprefix("folder:"), tmp_path / "here"))
    options = ("--epochs", 3, "--grey", "--size", "8x8", "--balance", "--select", "balanced_accuracy")
    train("cnn", photos, tmp_path / "unbroken", *options)
    with dying(writes=5), pytest.raises(DiedError):
        train("cnn", photos, tmp_path / "run", *options)
    train("cnn", f"folder:{here}", tmp_path / "run", *options)
    assert_same_outcome(tmp_path / "run", tmp_path / "unbroken")
    assert (
        " --size 8x8 --grey --epochs 3 --seed 0 --balance --select balanced_accuracy "
        in Run(tmp_path / "run").command()
    )
    own_pictures.write(here / "cats/one-more.png", own_pictures.noise(99))
    arguments = ("train", "cnn", "--data", f"folder:{here}", *options, "--threads", 1, "--out", tmp_path / "run")
    other = "holds a run on other pictures: since then 1 added (cats/one-more.png). "
    assert other in refusal(*arguments)
    (tmp_path / "run/pictures.csv").unlink()  # a published file does not list its pictures
    other = "since then pictures were added, removed, renamed, edited or put into another class. Choose"
    assert other in refusal(*arguments)
    assert "another pictures.split_seed (pictures.split_seed: 0 there, 1 " in refusal(*arguments, "--split-seed", 1)


# --set.


def test_a_change_of_each_kind_reaches_the_recipe() -> None:
    recipe = changed(PICTURES, ["batch_size=16", "betas=0.8,0.99", "flip=true", "dropout=none", "optimizer=adam"])
    assert (recipe.batch_size, recipe.betas, recipe.augmentation.flip) == (16, (0.8, 0.99), True)
    assert (recipe.dropout, recipe.optimizer, recipe.name) == (None, "adam", "pictures")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("learning_rate", "write NAME=VALUE, such as --set learning_rate=3e-3."),
        ("rate=1", "there is no such hyperparameter. Choose from batch_size, epochs, learning_rate, "),
        ("learning_rate=fast", "'fast' is not a number."),
        ("learning_rate=-1", "-1 is out of range; learning_rate must be above 0."),
        ("batch_size=2.5", "'2.5' is not a whole number."),
        ("batch_size=1", "batch normalisation needs at least 2 images"),
        ("optimizer=lion", "'lion' is not adam or adamw or sgd or muon."),
        ("betas=0.9", "'0.9' is not two numbers, such as 0.9,0.999."),
        ("betas=0.9,1", "0.9,1 is out of range; betas must be at least 0 and below 1."),
        ("batch_norm=maybe", "'maybe' is not true or false."),
        ("dropout=1.5", "1.5 is out of range; "),
        ("erase=2", "2 is out of range; erase must be from 0 to 1."),
        ("temperature=2", "the recipe pictures has no teacher."),
    ],
)
def test_changes_of_hyperparameters_are_checked(photos: str, tmp_path: Path, change: str, expected: str) -> None:
    arguments = ("train", "cnn", "--data", photos, "--out", tmp_path / "run", "--set", change)
    message = refusal(*arguments, exit_code=2)
    assert message.startswith(f"--set {change}: ")
    assert expected in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data-dir", "."], "--data-dir: --data folder:photos already names the folder. Omit --data-dir."),
        (["--recipe", "best", "--size", "8"], "--size 8: write HEIGHTxWIDTH in pixels"),
        (["--start-from", "gone.pt"], "'gone.pt' does not exist"),
        (["--grey", "--colour"], "--colour and --grey contradict each other. Give only one of them."),
        (["--select", "luck"], "'luck' is not one of"),
        (["--test-share", "0.9"], "0.9 is not in the range 0.01<=x<=0.5"),
        (
            ["--data", "fashion-mnist", "--grey", "--fit", "pad"],
            "--grey and --fit: use this only with your own pictures, not with",
        ),
    ],
)
def test_options_that_do_not_fit_own_pictures_are_refused(tmp_path: Path, options: list[str], expected: str) -> None:
    arguments = ("train", "cnn", "--data", "folder:photos", "--out", tmp_path / "run", *options)
    assert expected in refusal(*arguments, exit_code=2)


def test_images_that_are_too_small_for_a_network_are_refused(photos: str, tmp_path: Path) -> None:
    arguments = ("train", "cnn", "--data", photos, "--size", "7x20", "--out", tmp_path / "run")
    assert "the images have 7 x 20 pixels, but this network needs at least 8 x 8" in refusal(*arguments)
    assert not (tmp_path / "run").exists()


# --start-from.


def test_a_run_starts_from_the_weights_of_another_and_relearns_the_last_layer_for_other_labels(
    photos: str, tmp_path: Path
) -> None:
    train("lstm", photos, tmp_path / "first", "--epochs", 1, "--limit", 8)  # four pictures of each class
    file = tmp_path / "first/best.pt"
    hardly = ("--epochs", 1, "--set", "learning_rate=1e-12", "--start-from", file)
    train("lstm", photos, tmp_path / "again", *hardly, "--seed", 1)
    learned, kept = weights(tmp_path / "first"), weights(tmp_path / "again")
    parallel = {f"module.{name}": value for name, value in learned.items()}
    torch.save({"state_dict": parallel, "epoch": 3}, tmp_path / "parallel.pt")
    train("lstm", photos, tmp_path / "wrapped", *hardly[:-1], tmp_path / "parallel.pt")
    for name, value in learned.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(weights(tmp_path / "wrapped")[name], value, rtol=1e-4, atol=1e-6)
    three = own_pictures.folder(tmp_path / "three", {"cats": 4, "dogs": 4, "emus": 4})
    printed = invoke("train", "lstm", "--data", f"folder:{three}", "--threads", 1, "--out", tmp_path / "other", *hardly)
    assert (
        f"--start-from {file}: 2 of 6 weights stay freshly initialised, because the file has no weights of the same "
        "name and shape: classifier.weight [3, 186]; classifier.bias [3].\n"
    ) in printed.stderr
    kept = weights(tmp_path / "other")
    torch.testing.assert_close(kept["lstm.weight_hh_l0"], learned["lstm.weight_hh_l0"], rtol=1e-4, atol=1e-6)
    assert kept["classifier.weight"].shape == (3, 186)
    config = read(tmp_path / "other", "config.json")
    assert config["start_from"]["path"] == str(file)
    assert f"--start-from {file}" in Run(tmp_path / "other").command()


def test_files_that_are_no_weights_of_the_network_are_refused(photos: str, tmp_path: Path) -> None:
    file, arguments = (
        tmp_path / "file.pt",
        ("train", "lstm", "--data", photos, "--out", tmp_path / "run", "--epochs", 1),
    )
    for content in (b"", b"no weights", json.dumps({"model": {}}).encode()):
        file.write_bytes(content)
        assert f"--start-from {file} cannot be read as weights: it is damaged, or " in refusal(
            *arguments, "--start-from", file
        )
    linear = torch.nn.Linear(2, 2).state_dict()
    for state in ({"model": "lstm"}, {"model": torch.zeros(3)}, {}, torch.zeros(3), linear, {"state_dict": linear}):
        torch.save(state, file)
        message = refusal(*arguments, "--start-from", file)
        assert message.startswith(f"--start-from {file} holds 0 of the 6 weights of lstm: the file belongs to another")
