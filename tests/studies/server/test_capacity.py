"""The arithmetic of the capacity table in docs/deploy.md."""

import re

import click
import pytest

from studies.server import capacity
from studies.server.capacity import Measured
from tests.studies.server.document import measurement


def test_replicas() -> None:
    measured = Measured("cnn", calls_per_second=1_000, images_per_second=2_000, cpus=2)
    # 600 calls/s each, and one more that may be gone.
    assert [measured.replicas(rate) for rate in (1, 600, 601, 6_000)] == [2, 2, 3, 11]
    assert measured.row(6_000)[:6] == ("cnn", "6,000", "11", "22", "6", "12")


def test_the_bytes_of_a_call_are_its_image_and_little_more() -> None:
    assert 28 * 28 < capacity.request_bytes("cnn") < 28 * 28 + 80


def test_the_table_follows_the_results() -> None:
    text = capacity.part(measurement(10_000, 30_000, 20_000))
    # The median of the rounds. 1,000,000 / (20,000 x 0.6) = 83.3: 84, and one to spare, of 2 CPUs each.
    # In calls of 64 images 1,900 a second: 1,000,000 / (1,900 x 0.6) = 877.2.
    assert "| lstm | 1,000,000 | 85 | 170 | 879 | 1,758 | 6.6 Gbit/s |" in text
    assert "`ceil(1,000,000 / (20,000 * 0.6)) + 1 = 85`" in text
    assert len(re.findall(r"^\| (?:lstm|cnn) ", text, re.MULTILINE)) == 2 * len(capacity.RATES)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {**measurement(1), "conditions": {"cpus": "two"}},
        {**measurement(1), "rounds": []},
        {**measurement(1), "rounds": [{"hot": {"lstm": {"64": {}}}}]},
        {**measurement(1), "rounds": [{"native": {"lstm": {"64": {"samples_per_s": 1}}}}]},
        {"cpus": 2, "capacity": {"lstm": 1}},
    ],
)
def test_results_of_another_form_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(click.ClickException, match=r"lacks what 'python -m studies server run' writes"):
        capacity.throughputs(document)
