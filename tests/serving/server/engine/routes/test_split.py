"""How a split spreads calls over its members."""

import math
from collections import Counter

import pytest

from hangtag.serving.server.engine.routes.route_file import Member, SplitSettings
from hangtag.serving.server.engine.routes.served_route import chosen

SPLIT = SplitSettings((Member("cnn"), Member("cnn", "1")), (90.0, 10.0), "x-user-id")
COUNT = 100_000
DEVIATIONS = 4.5
"""More of them than a binomial count has once in 100,000 times."""


def counts(route: str, keys: list[str]) -> Counter[str]:
    return Counter(str(chosen(route, SPLIT, key)) for key in keys)


def within_bounds(count: int, share: float, total: int) -> bool:
    return abs(count - share * total) <= DEVIATIONS * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("pattern", ["", "{}", "user-{}", "{:08x}", "user{}@example.com"])
def test_shares_are_within_binomial_bounds_for_random_calls_and_for_similar_keys(pattern: str) -> None:
    keys = [pattern.format(number) for number in range(COUNT)]
    for total in (1_000, COUNT):
        assert within_bounds(counts("canary", keys[:total])["cnn@1"], 0.1, total)


def test_a_split_within_a_split_gets_keys_of_all_its_shares() -> None:
    keys = [f"user-{number}" for number in range(COUNT)]
    inner = [key for key in keys if str(chosen("outer", SPLIT, key)) == "cnn"]
    assert within_bounds(counts("inner", inner)["cnn@1"], 0.1, len(inner))


def test_a_change_of_weights_moves_no_more_keys_than_it_must() -> None:
    wider = SplitSettings(SPLIT.members, (80.0, 20.0), SPLIT.sticky)
    for key in map(str, range(1_000)):
        if str(chosen("canary", SPLIT, key)) == "cnn@1":
            assert str(chosen("canary", wider, key)) == "cnn@1"
