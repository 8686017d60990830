import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.loadtest.plan.peak_search import LOWEST_RATE, PRECISION, PeakSearch


def run_search(first: float, edge: float) -> tuple[float | None, list[float]]:
    """Search against a server that keeps its bound up to the edge, and no further."""
    search, tried = PeakSearch(first), []
    while search.rate is not None:
        tried.append(search.rate)
        assert len(tried) < 100
        search.record(search.rate <= edge)
    return search.peak, tried


@given(first=st.floats(0.01, 1e6), edge=st.floats(1.0, 900_000))
def test_the_peak_is_the_edge_up_to_the_precision(first: float, edge: float) -> None:
    peak, tried = run_search(first, edge)
    assert peak is not None
    # Rates have three digits, so the peak is known to the nearest of them only.
    assert edge / (PRECISION * 1.01) <= peak <= edge
    assert tried.count(peak) >= 2
    assert all(LOWEST_RATE <= rate <= 1e6 for rate in tried)


def test_the_gap_is_halved_as_a_ratio_and_the_end_confirmed() -> None:
    peak, tried = run_search(100.0, 730.0)
    assert tried == [100.0, 200.0, 400.0, 800.0, 566.0, 673.0, 734.0, 703.0, 703.0]
    assert peak == 703.0


def test_after_a_confirmation_that_failed_the_edge_is_just_below() -> None:
    search = PeakSearch(100.0)
    for kept in (True, False, True, True, True, True):  # 100, 200, 141, 168, 183, 191
        search.record(kept)
    assert search.rate == 191.0  # The confirmation.
    search.record(False)
    assert search.rate == 182.0


def test_a_server_that_never_keeps_the_bound_has_no_peak() -> None:
    peak, tried = run_search(100.0, 0.5)
    assert peak is None
    assert tried[-1] == LOWEST_RATE


def test_the_search_gives_up_at_the_lowest_rate_that_it_may_try() -> None:
    search, tried = PeakSearch(1.0, lowest=60.0), []
    while search.rate is not None:
        tried.append(search.rate)
        search.record(search.rate >= 200.0)
    assert tried == [60.0]
    search = PeakSearch(100.0, lowest=60.0)
    search.record(False)
    assert search.rate == 60.0


def test_a_server_that_always_keeps_the_bound_has_the_maximum_rate() -> None:
    peak, _ = run_search(1000.0, 1e9)
    assert peak == 1e6


def test_a_rate_that_passed_once_by_luck_is_not_the_peak() -> None:
    search = PeakSearch(1000.0)
    seen: dict[float, int] = {}
    while search.rate is not None:
        rate = search.rate
        seen[rate] = seen.get(rate, 0) + 1
        # Above 800 the bound is missed, except the first time at each rate up to 1,000.
        search.record(rate <= 800 or (rate <= 1000 and seen[rate] == 1))
    assert search.peak is not None
    assert 800 / (PRECISION * 1.01) <= search.peak <= 800


def test_an_ended_search_records_nothing_more() -> None:
    search = PeakSearch(1.0)
    search.record(False)
    assert search.rate is None
    with pytest.raises(ValueError, match="has ended"):
        search.record(True)
