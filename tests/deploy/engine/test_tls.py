"""The tls profile: nobody without the authority's certificate and a token gets in."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engine.stack import ROOT, Stack, stack

MOUNT = "/secrets"
TRUST = ("--tls-ca", f"{MOUNT}/ca.crt")
TOKEN = ("--token-file", f"{MOUNT}/tokens")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "secrets"
    subprocess.run([ROOT / "deploy/certificates.sh", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def secured(secrets: Path) -> Iterator[Stack]:
    with stack("hangtag-test-tls", "tls", "loadtest", env={"HANGTAG_TLS_DIR": str(secrets)}) as made:
        made.up("server-tls")
        yield made


def call(secured: Stack, secrets: Path, *options: str) -> str:
    command = ("classify", "--server", "server-tls:8001", "--json", "/garments/bag-1.png", "--timeout", "10", *options)
    # The files, since only their owner enters their folder.
    mounts = tuple(f"--volume={secrets}/{name}:{MOUNT}/{name}:ro" for name in ("ca.crt", "tokens"))
    return secured.client(*command, options=mounts)


def test_with_both(secured: Stack, secrets: Path) -> None:
    assert json.loads(call(secured, secrets, *TRUST, *TOKEN))["labels"][0]["name"] == "Bag"


def test_without_a_token(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="token"):
        call(secured, secrets, *TRUST)


def test_without_tls(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        call(secured, secrets, *TOKEN)
