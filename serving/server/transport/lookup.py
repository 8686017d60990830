"""From a name to a model that takes the request, also where the model is replaced in between."""

from collections.abc import Callable
from typing import TypeVar

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import UnavailableError

T = TypeVar("T")


def with_model(engine: Engine, name: str, version: str, ask: Callable[[ServedModel], T]) -> T:
    """What ``ask`` gets from the model of this name and version, or from its successor.

    A model that is looked up may be replaced, and closed, before the request is queued with it. Then ask raises
    UnavailableError although the name is served, and is called again with the model that serves now.
    """
    while True:
        model = engine.model(name, version)
        try:
            return ask(model)
        except UnavailableError:
            if engine.model(name, version) is model:
                raise
