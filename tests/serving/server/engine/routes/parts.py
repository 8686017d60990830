"""Two models of which the first is sure of some samples, and a cascade of both."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.server.engine.routes.route_file import (
    CascadeSettings,
    Member,
    RouteSettings,
    ShadowSettings,
    SplitSettings,
)
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.telemetry.route_statistics import ShadowCounts
from tests.serving.server.parts import FakeRuntime, Outputs

FP32 = {"x": "FP32"}
SURE = 0.9
Compute = Callable[[npt.NDArray[np.float32]], Outputs]


def model(name: str, compute: Compute, config: ServerConfig | None = None, version: int = 1) -> ServedModel:
    """A model that a test computes by hand: its threads do not run."""
    runtime = FakeRuntime()
    runtime.compute = compute
    return ServedModel(ModelFile(name, version, Path("unused")), runtime, config or ServerConfig())


def echo(offset: float, surer: float = 0.0) -> Compute:
    """A computation whose confidence in a sample is its value, and ``surer`` more; `answers` tells which one it was."""

    def compute(x: npt.NDArray[np.float32]) -> Outputs:
        confidence, value = x[:, 0] + surer, x[:, 0]
        return {"y": np.stack([confidence, confidence - value - offset], axis=1)}

    return compute


def answers(result: InferenceResult) -> list[float]:
    """The value of each sample, and the offset of the model that answered it, as a sum."""
    return [round(float(first - second), 3) for first, second in result.outputs["y"]]


def fast(config: ServerConfig | None = None) -> ServedModel:
    """Its confidence is the sample's value."""
    return model("fast", echo(10), config)


def slow(config: ServerConfig | None = None, version: int = 1) -> ServedModel:
    """Always asked last."""
    return model("slow", echo(20 * version), config, version)


def engine_with(*models: ServedModel) -> Engine:
    engine = Engine(ServerConfig(models=Path("unused")))
    for each in models:
        # As Engine.serve does, without starting the model's threads.
        engine._table[each.name] = {each.version: each}
    engine.open()
    return engine


def route(engine: Engine, settings: RouteSettings, limits: Limits | None = None) -> ServedRoute:
    """A route of models that the engine has; a shadow that it does not have is left out, as the control does."""
    members = {member: engine.model(member.name, member.version) for member in settings.members}
    shadow = None
    if settings.shadow is not None and settings.shadow.member.name in engine.names():
        shadow = engine.model(settings.shadow.member.name)

    def look_up(member: Member) -> Servable:
        return engine.model(member.name, member.version)

    return ServedRoute("both", settings, members, shadow, look_up, limits or Limits())


def shadowed(engine: Engine, share: float = 1.0, **limits: float) -> ServedRoute:
    """A route of `fast` alone, which copies a share of its requests to "other"."""
    settings = SplitSettings((Member("fast"),), (100.0,), shadow=ShadowSettings(Member("other"), share))
    return route(engine, settings, Limits(**limits))  # type: ignore[arg-type]


def counts(both: ServedRoute) -> ShadowCounts:
    """What came of a route's copies."""
    result = both.state().route.shadow
    assert result is not None
    return result


def cascade(*names: str, on_overload: str = "answer") -> CascadeSettings:
    members = tuple(Member(name) for name in names or ("fast", "slow"))
    return CascadeSettings(members, Acceptance("y", "at_least", SURE), on_overload)


def execute_all(*models: ServedModel) -> None:
    """Compute what is queued, until nothing is."""
    while any(len(each.batcher) for each in models):
        for each in models:
            while batch := each.batcher.take(wait=False):
                each.execute(batch)
