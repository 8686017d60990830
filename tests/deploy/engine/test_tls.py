"""The server of the tls profile refuses calls without TLS or without a token."""

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
    with stack("hangtag-test-tls", "tls", "loadtest", env={"HANGTAG_TLS_DIR": str(secrets)}) as secured:
        secured.up("server-tls")
        yield secured


def call(secured: Stack, secrets: Path, *options: str) -> str:
    command = ("classify", "--server", "server-tls:8001", "--json", "/garments/bag-1.png", "--timeout", "10", *options)
    # Mount files, not their folder: only the folder's owner may enter it.
    mounts = tuple(f"--volume={secrets}/{name}:{MOUNT}/{name}:ro" for name in ("ca.crt", "tokens"))
    return secured.client(*command, options=mounts)


def test_a_call_with_tls_and_token_is_answered(secured: Stack, secrets: Path) -> None:
    assert json.loads(call(secured, secrets, *TRUST, *TOKEN))["labels"][0]["name"] == "Bag"


def test_a_call_without_a_token_is_refused(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="token"):
        call(secured, secrets, *TRUST)


def test_a_call_without_tls_fails(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        call(secured, secrets, *TOKEN)
