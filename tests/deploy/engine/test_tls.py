"""The server of the tls profile refuses calls without TLS or without a token."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
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


def test_https_is_served_to_a_caller_with_a_token(secured: Stack, secrets: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    url = f"https://localhost:{secured.address('server-tls', 8000).rpartition(':')[2]}/v2/models/lstm"
    token = (secrets / "tokens").read_text().split()[0]
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trusted, timeout=10) as response:
        assert json.load(response)["name"] == "lstm"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, context=trusted, timeout=10)
