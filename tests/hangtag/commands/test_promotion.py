"""``hangtag models promote`` and ``rollback``: which version serves, by a file in the model's folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from hangtag import Client
from hangtag.serving.model_repository import serving_versions
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.hangtag.proven import models
from tests.kit.onnx_models import classifier, publish


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        publish(tmp_path, "m", classifier(), version)
    return tmp_path


def change(shop: Path, *arguments: str) -> str:
    result = models(*arguments, "--models", shop)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def refusal(shop: Path, *arguments: str) -> str:
    result = models(*arguments, "--models", shop)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


def serving(shop: Path) -> int:
    (file,) = serving_versions(shop)
    return file.version


def test_a_version_is_promoted_and_rolled_back(shop: Path) -> None:
    assert change(shop, "promote", "m", "1") == "m version 1 is chosen instead of version 3"
    assert change(shop, "promote", "m", "2") == "m version 2 is chosen instead of version 1"
    assert change(shop, "promote", "m", "2") == "m version 2 is chosen, as before"
    publish(shop, "m", classifier(), 4)
    assert serving(shop) == 2
    assert change(shop, "rollback", "m") == "m version 1 is chosen instead of version 2"
    assert change(shop, "rollback", "m") == "m version 3 is chosen instead of version 1"
    assert (
        change(shop, "rollback", "m") == "m version 2 is chosen instead of version 3"
    )  # no promotion is left: by number
    assert change(shop, "promote", "m", "latest") == "m version 4 is chosen instead of version 2"
    assert not (shop / "m/promoted.toml").exists()
    assert serving(shop) == 4


def test_a_server_that_runs_as_by_default_follows_when_it_starts_again_as_the_command_says(shop: Path) -> None:
    picture = np.zeros((28, 28), np.uint8)
    config = ServerConfig(models=shop, port=0, http_port=-1)
    with Server(config) as server, Client(server.address) as client:
        promoted = models("promote", "m", "1", "--models", shop)
        assert "'hangtag models load m', any other (the default) when it starts again" in promoted.stderr
        assert client.classify(picture, "m").version == "3"
    with Server(config) as server, Client(server.address) as client:
        assert client.classify(picture, "m").version == "1"


def test_a_rollback_to_a_version_forgets_what_served_since(shop: Path) -> None:
    for version in ("1", "2", "3"):
        change(shop, "promote", "m", version)
    assert change(shop, "rollback", "m", "1") == "m version 1 is chosen instead of version 3"
    assert (
        change(shop, "rollback", "m") == "m version 3 is chosen instead of version 1"
    )  # which served before all promotions


def test_nothing_is_left_to_go_back_to(tmp_path: Path) -> None:
    publish(tmp_path, "m", classifier())
    assert "m version 1 serves, and no version served before it. There are 1; choose" in refusal(
        tmp_path, "rollback", "m"
    )


def test_what_cannot_serve_is_refused(shop: Path) -> None:
    (shop / "m/2/model.onnx").write_bytes(b"damaged")
    assert "has no version 7; there are 3, 2, 1." in refusal(shop, "promote", "m", "7")
    assert "holds no model 'other'; the models there: m." in refusal(shop, "promote", "other", "1")
    for arguments in (("promote", "m", "2"), ("rollback", "m"), ("rollback", "m", "2")):
        assert "cannot be loaded by ONNX Runtime" in refusal(shop, *arguments)
    assert not (shop / "m/promoted.toml").exists()
    assert models("promote", "m", "newest", "--models", shop).exit_code == 2


def test_a_damaged_file_is_replaced_by_a_promotion(shop: Path) -> None:
    (shop / "m/promoted.toml").write_text("nothing")
    for arguments in (("list",), ("rollback", "m")):
        assert "m/promoted.toml cannot be read as TOML" in refusal(shop, *arguments)
    assert change(shop, "promote", "m", "2") == "m version 2 is chosen"
    assert serving(shop) == 2


def test_the_list_has_every_version_and_says_which_serves(shop: Path) -> None:
    change(shop, "promote", "m", "2")
    rows = [line.split() for line in models("list", "--models", shop).stdout.splitlines()]
    assert rows[0][:3] == ["model", "version", "serves"]
    assert [row[:3] for row in rows[1:]] == [["m", "3", "-"], ["m", "2", "yes"], ["m", "1", "-"]]
    listed = json.loads(models("list", "--models", shop, "--json").stdout)
    assert [(row["version"], row["serves"]) for row in listed] == [(3, False), (2, True), (1, False)]
    assert json.loads(models("show", "m", "--models", shop, "--json").stdout)["version"] == 2
    assert "m version 3, another version serves" in models("show", "m", "--version", "3", "--models", shop).stdout


def test_a_file_that_cannot_be_written_changes_nothing(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert "promoted.toml cannot be written: No space left on device. The same version" in refusal(
        shop, "promote", "m", "1"
    )
    assert sorted(path.name for path in (shop / "m").iterdir()) == ["1", "2", "3"]
