"""Fixtures: model stores of each kind, and a local model repository to push to them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import stores
from tests.kit.repository import Repository
from tests.kit.stores import ObjectStore


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with stores.moto() as url:
        yield url


@pytest.fixture
def s3(moto: str, tmp_path: Path) -> Iterator[ObjectStore]:
    with stores.s3(moto, tmp_path / "cache") as store:
        yield store


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ObjectStore]:
    """The emulator in EMULATED_STORE, which deploy/stores-check.sh sets, or moto's S3."""
    if "EMULATED_STORE" not in os.environ:
        yield request.getfixturevalue("s3")
        return
    url, variable = os.environ["EMULATED_STORE"].split()
    with stores.emulator(url, variable, tmp_path / "cache") as store:
        yield store


@pytest.fixture
def web(tmp_path: Path) -> Iterator[ObjectStore]:
    with stores.https(tmp_path / "www", tmp_path / "cache") as store:
        yield store


@pytest.fixture
def local(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "local")
    repository.publish("m", 1)
    return repository
