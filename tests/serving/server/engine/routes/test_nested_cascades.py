"""A cascade whose member is a cascade."""

from dataclasses import replace

import pytest

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.server.engine.routes.route_file import Member
from hangtag.serving.server.engine.routes.served_route import ServedRoute
from hangtag.serving.server.engine.servable import Servable
from tests.serving.server.engine.routes.parts import (
    FP32,
    answers,
    cascade,
    echo,
    engine_with,
    execute_all,
    fast,
    model,
    route,
    slow,
)
from tests.serving.server.parts import Caller, rows


def test_a_member_that_is_a_route_is_named_by_the_models_that_answered() -> None:
    first, second, third = fast(), slow(), model("third", echo(30))
    inner = route(engine_with(first, second), cascade())
    members: dict[Member, Servable] = {Member("third"): third, Member("both"): inner}
    outer = ServedRoute("outer", cascade("third", "both"), members, None, members.__getitem__, Limits())
    caller = Caller()
    outer.submit(rows(0.95, 0.8, 0.92, 0.7), FP32, caller)
    execute_all(third, first, second)
    assert answers(caller.answer) == [30.95, 20.8, 30.92, 20.7]
    stages = [(stage.member, stage.rows) for stage in caller.answer.timings.stages]
    assert stages == [("third", (0, 1, 2, 3)), ("fast", (1, 3)), ("slow", (1, 3))]


@pytest.mark.parametrize("place", ["first", "last"])
def test_what_a_cascade_within_a_cascade_was_not_sure_of_is_counted_too(place: str) -> None:
    first, second = fast(), slow(ServerConfig(max_batch_size=4, max_queue_size=4))
    inner = route(engine_with(first, second), cascade())
    other = model("other", echo(30, surer=0.3 if place == "first" else 0))
    for _ in range(4):
        second.submit(rows(1), FP32, Caller())
    names = ("both", "other") if place == "first" else ("other", "both")
    settings = replace(cascade(*names), acceptance=Acceptance("y", "at_least", 0.5))
    members: dict[Member, Servable] = {Member("both"): inner, Member("other"): other}
    outer = ServedRoute(
        "outer", settings, {each: members[each] for each in settings.members}, None, members.__getitem__, Limits()
    )
    caller = Caller()
    outer.submit(rows(0.95, 0.6, 0.1, 0.2), FP32, caller)  # unsure is 0.6 alone, or 0.1 and 0.2
    execute_all(first, other)
    assert caller.answer.timings.unsure == 2  # "first": which of three unsure ones the other model took is not known
