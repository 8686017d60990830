import pytest

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import NotFoundError, UnavailableError
from hangtag.serving.server.transport.lookup import with_model
from tests.serving.server.parts import FakeRuntime, engine_of, served


@pytest.fixture
def engine() -> Engine:
    return engine_of(served(FakeRuntime()))


def test_a_model_that_was_replaced_in_between_is_looked_up_again(engine: Engine) -> None:
    asked: list[ServedModel] = []

    def ask(model: ServedModel) -> str:
        asked.append(model)
        if len(asked) == 1:
            engine.serve("double", [served(FakeRuntime())])
            raise UnavailableError("closed")
        return "answer"

    assert with_model(engine, "double", "", ask) == "answer"
    assert asked[0] is not asked[1]


def test_a_model_that_was_unloaded_in_between_is_not_found(engine: Engine) -> None:
    def ask(_model: ServedModel) -> str:
        engine.serve("double", [])
        raise UnavailableError("closed")

    with pytest.raises(NotFoundError):
        with_model(engine, "double", "3", ask)


def test_what_is_unavailable_and_was_not_replaced_stays_so(engine: Engine) -> None:
    def ask(_model: ServedModel) -> str:
        raise UnavailableError("for another reason")

    with pytest.raises(UnavailableError, match="for another reason"):
        with_model(engine, "double", "", ask)
