"""Failures are counted in one place: by model, version and code, and in the statistics of the version that serves."""

from collections.abc import Iterator

import pytest

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.telemetry.model_statistics import Duration
from tests.serving.server.parts import FakeRuntime, engine_of, served


@pytest.fixture
def model() -> ServedModel:
    return served(FakeRuntime())


@pytest.fixture
def engine(model: ServedModel) -> Iterator[Engine]:
    engine = engine_of(model)
    yield engine
    engine.close()


@pytest.mark.parametrize("version", ["", "3"])
def test_a_failure_counts_once_for_the_version_that_serves(engine: Engine, model: ServedModel, version: str) -> None:
    engine.record_failure("double", version, "INTERNAL", 2_000_000)
    ((key, histogram),) = engine.failures.snapshot().items()
    assert (key, histogram.count, histogram.sum) == (("double", "3", "INTERNAL"), 1, 0.002)
    assert model.statistics.snapshot().fail == Duration(1, 2_000_000)


@pytest.mark.parametrize(
    ("name", "version", "label"), [("made up", "", ""), ("made up", "3", ""), ("double", "9", "double"), ("", "", "")]
)
def test_names_that_are_not_served_become_no_labels(
    engine: Engine, model: ServedModel, name: str, version: str, label: str
) -> None:
    engine.record_failure(name, version, "NOT_FOUND", 1)
    assert list(engine.failures.snapshot()) == [(label, "", "NOT_FOUND")]
    assert model.statistics.snapshot().fail == Duration()


def test_failures_of_a_version_are_forgotten_when_another_one_takes_its_place(engine: Engine) -> None:
    for name, version in (("double", "3"), ("double", "9"), ("made up", "")):
        engine.record_failure(name, version, "NOT_FOUND", 1)
    for old in engine.serve("double", [served(FakeRuntime(), version=4)]):
        old.close()
    engine.record_failure("double", "", "INTERNAL", 1)
    keys = {("double", "", "NOT_FOUND"), ("", "", "NOT_FOUND"), ("double", "4", "INTERNAL")}
    assert set(engine.failures.snapshot()) == keys
