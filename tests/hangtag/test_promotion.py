"""``hangtag models promote`` and ``rollback`` choose the version that serves, by a file in the model's folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from hangtag import Client
from tests.kit.command import hangtag, invoke, last_line, refusal
from tests.kit.onnx_models import classifier, publish
from tests.kit.server import server

pytestmark = pytest.mark.quick


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with three versions of the model ``m``."""
    for version in (1, 2, 3):
        publish(tmp_path, "m", classifier(), version)
    return tmp_path


def change(shop: Path, *arguments: str) -> str:
    return invoke("models", *arguments, "--models", shop).stdout.strip()


def serving(shop: Path) -> int:
    """The version that serves."""
    listed = json.loads(invoke("models", "list", "--models", shop, "--json").stdout)
    (version,) = [row["version"] for row in listed if row["serves"]]
    return int(version)


def test_a_version_is_promoted_and_rolled_back(shop: Path) -> None:
    assert change(shop, "promote", "m", "1") == "m version 1 is chosen instead of version 3"
    assert change(shop, "promote", "m", "2") == "m version 2 is chosen instead of version 1"
    assert change(shop, "promote", "m", "2") == "m version 2 was already chosen"
    publish(shop, "m", classifier(), 4)
    assert serving(shop) == 2
    # Each `rollback` undoes the latest remaining promotion. If none remains, it chooses the next lower version.
    for version, before in ((1, 2), (3, 1), (2, 3)):
        assert change(shop, "rollback", "m") == f"m version {version} is chosen instead of version {before}"
        assert serving(shop) == version
    assert change(shop, "promote", "m", "latest") == "m version 4 is chosen instead of version 2"
    assert not (shop / "m/promoted.toml").exists()
    assert serving(shop) == 4
    assert change(shop, "promote", "m", "latest") == "m version 4 was already chosen"


def test_a_server_that_runs_as_by_default_follows_when_it_starts_again_as_the_command_says(shop: Path) -> None:
    picture = np.zeros((28, 28), np.uint8)
    with server(shop, http_port=-1) as running, Client(running.address) as client:
        promoted = invoke("models", "promote", "m", "1", "--models", shop)
        assert "hangtag models load m" in promoted.stderr
        assert "when it restarts" in promoted.stderr
        assert client.classify(picture, "m").version == "3"
    with server(shop, http_port=-1) as running, Client(running.address) as client:
        assert client.classify(picture, "m").version == "1"


def test_a_rollback_to_a_version_forgets_what_served_since(shop: Path) -> None:
    for version in ("1", "2", "3"):
        change(shop, "promote", "m", version)
    assert change(shop, "rollback", "m", "1") == "m version 1 is chosen instead of version 3"
    # Version 3 served before the first promotion.
    assert change(shop, "rollback", "m") == "m version 3 is chosen instead of version 1"


def test_nothing_is_left_to_go_back_to(tmp_path: Path) -> None:
    publish(tmp_path, "m", classifier())
    assert "no other version was served before" in refusal("models", "rollback", "m", "--models", tmp_path)


def test_what_cannot_serve_is_refused(shop: Path) -> None:
    (shop / "m/2/model.onnx").write_bytes(b"damaged")
    for arguments, hint in (
        ("promote m 7", "there are 3, 2, 1."),
        ("promote other 1", "the models there: m."),
        ("promote m 2", "cannot be loaded by ONNX Runtime"),
        ("rollback m", "cannot be loaded by ONNX Runtime"),
        ("rollback m 2", "cannot be loaded by ONNX Runtime"),
    ):
        assert hint in refusal("models", *arguments.split(), "--models", shop)
    assert not (shop / "m/promoted.toml").exists()
    invoke("models", "promote", "m", "newest", "--models", shop, exit_code=2)


def test_a_damaged_file_is_replaced_by_a_promotion(shop: Path) -> None:
    (shop / "m/promoted.toml").write_text("nothing")
    for arguments in ("list", "rollback m"):
        assert "m/promoted.toml cannot be read as TOML" in refusal("models", *arguments.split(), "--models", shop)
    assert change(shop, "promote", "m", "2") == "m version 2 is chosen"
    assert serving(shop) == 2


def test_what_is_shown_is_the_version_that_serves_unless_another_is_named(shop: Path) -> None:
    change(shop, "promote", "m", "2")
    assert json.loads(invoke("models", "show", "m", "--models", shop, "--json").stdout)["version"] == 2
    shown = invoke("models", "show", "m", "--version", 3, "--models", shop).stdout.split()
    assert shown[2:6] == ["version", "3", "serves", "no"]


def test_a_file_that_cannot_be_written_changes_nothing(shop: Path) -> None:
    """A limit of 0 bytes for files simulates a full disk."""
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    done = hangtag("models", "promote", "m", "1", "--models", shop, first=full, exit_codes=[1])
    assert "promoted.toml cannot be written: File too large" in last_line(done.stderr)
    assert sorted(path.name for path in (shop / "m").iterdir()) == ["1", "2", "3"]
