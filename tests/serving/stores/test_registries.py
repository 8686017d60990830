"""Model repositories in container registries. oras can push and pull them too, and docker's credentials are used."""

import json
import os
from pathlib import Path

import pytest

from tests.kit import stores
from tests.kit.command import contents
from tests.kit.repository import Repository
from tests.kit.stores import SECRET, ObjectStore, answer, swap, until_answer
from tests.kit.waiting import pass_time

pytest.importorskip("obstore", reason="the extra stores is not installed")
pytest.importorskip("moto", reason="moto is not installed")
pytestmark = pytest.mark.slow


def test_a_registry_holds_what_oras_pushes_and_pulls(oci: ObjectStore, local: Repository, tmp_path: Path) -> None:
    assert oci.refused("list", "--models", oci.url).startswith(f"{oci.url} has no models, ")
    oci.push(local.folder)
    local.publish("m", 2)
    pulled = tmp_path / "pulled"
    with oci.server() as server:
        assert answer(server) == 1
        pass_time(stores.TOKEN_SECONDS)  # the server's token expires, so it signs in again
        oci.oras("push", "m/1/model.onnx", "m/2/model.onnx", folder=local.folder)
        until_answer(server, 2)
    oci.link.alter = swap(b"m/1/model", b"m/7/model")
    assert "the manifest does not match its digest" in oci.refused("pull", oci.url, pulled)
    local.publish("m", 3)
    oci.push(local.folder)
    oci.oras("pull", folder=pulled)
    assert contents(pulled) == contents(local.folder)
    oci.oras("push", "m", folder=local.folder)
    assert "has no models" in oci.refused("list", "--models", oci.direct_url)


def test_a_registry_gets_the_credentials_that_docker_has(oci: ObjectStore, local: Repository, tmp_path: Path) -> None:
    file, helper = Path(oci.variables["DOCKER_CONFIG"], "config.json"), tmp_path / "docker-credential-kit"
    oci.variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    user = {"ServerURL": "", "Username": "user", "Secret": SECRET}
    helper.write_text(f"#!/bin/sh\ngrep -q 127.0.0.1: && echo '{json.dumps(user)}'\n")
    helper.chmod(0o700)
    for config, reason in (
        ("{}", "the store refuses the credentials, or there are no credentials"),
        ('{"credsStore": "none"}', f"the credentials in {file} cannot be read (FileNotFoundError)"),
        (f'{{"auths": "{SECRET}"}}', f"the credentials in {file} cannot be read (AttributeError)"),
    ):
        file.write_text(config)
        assert oci.refused("push", local.folder, oci.url).endswith(reason)
    file.write_text('{"auths": {}, "credsStore": "kit"}')
    oci.push(local.folder)
