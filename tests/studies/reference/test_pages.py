"""The generated parts of docs/deploy.md and docs/operations.md, and the arithmetic of the capacity table."""

import json
import re
from pathlib import Path

import click
import pytest

from studies.documents import DOCUMENTS, current
from studies.reference import options
from studies.sections import filled
from studies.server import capacity
from studies.server.capacity import Measured
from tests.studies.server.document import results

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_it_says_what_the_declarations_say(document: str) -> None:
    assert (ROOT / document).read_text() == current(ROOT, document), "run 'make docs'"


def test_commands_of_a_group_have_tables_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the variables that are told for them work."""
    heard = []

    @click.group()
    def models() -> None: ...

    @models.command()
    @click.option("--as-json", is_flag=True, help="For scripts, one <name> a line.")
    def list_all(as_json: bool) -> None:
        """List the models."""
        heard.append(as_json)

    (part,) = options.described("hangtag models", "Models.", models)
    assert part.startswith("### hangtag models list-all\n\nList the models.\n")
    assert part.endswith(
        "| `--as-json` | `HANGTAG_MODELS_LIST_ALL_AS_JSON` | off | For scripts, one &lt;name> a line. |"
    )
    monkeypatch.setenv("HANGTAG_MODELS_LIST_ALL_AS_JSON", "1")
    models.main(["list-all"], auto_envvar_prefix="HANGTAG_MODELS", standalone_mode=False)
    assert heard == [True]


def test_replicas() -> None:
    measured = Measured("cnn", calls_per_second=1_000, images_per_second=2_000, cpus=2)
    # 600 calls/s each, and one more that may be gone.
    assert [measured.replicas(rate) for rate in (1, 600, 601, 6_000)] == [2, 2, 3, 11]
    assert measured.row(6_000)[:6] == ("cnn", "6,000", "11", "22", "6", "12")


def test_the_bytes_of_a_call_are_its_image_and_little_more() -> None:
    assert 28 * 28 < capacity.request_bytes("cnn") < 28 * 28 + 80


def test_nothing_is_said_before_it_was_measured(tmp_path: Path) -> None:
    assert capacity.section(tmp_path) == "Not measured yet: `make bench-server`."


def test_the_table_follows_the_results(tmp_path: Path) -> None:
    file = tmp_path / capacity.RESULTS
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(results(10_000, 30_000, 20_000)))
    text = capacity.section(tmp_path)
    # The median of the rounds. 1,000,000 / (20,000 x 0.6) = 83.3: 84, and one to spare, of 2 CPUs each.
    # In calls of 64 images 1,900 a second: 1,000,000 / (1,900 x 0.6) = 877.2.
    assert "| lstm | 1,000,000 | 85 | 170 | 879 | 1,758 | 6.6 Gbit/s |" in text
    assert "`ceil(1,000,000 / (20,000 * 0.6)) + 1 = 85`" in text
    assert len(re.findall(r"^\| (?:lstm|cnn) ", text, re.MULTILINE)) == 2 * len(capacity.RATES)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {**results(1), "machine": {"cpus": "two"}},
        {**results(1), "rounds": []},
        {**results(1), "rounds": [{"hot": {"lstm": {"one": {}}}}]},
        {**results(1), "rounds": [{"hot": {"lstm": {"many": {"calls_per_s": 1}}}}]},
        {"cpus": 2, "capacity": {"lstm": 1}},
    ],
)
def test_results_of_another_form_are_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"is not as studies/server/measure\.py writes it"):
        capacity.read(document)


def test_a_part_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="0 parts between <!-- generated: options -->"):
        filled("# A page", "options", "text")
    page = "a\n<!-- generated: x -->\nold\n<!-- /generated: x -->\nb"
    assert filled(page, "x", "new") == "a\n<!-- generated: x -->\n\nnew\n\n<!-- /generated: x -->\nb"
    assert filled(page, "x", "") == "a\n<!-- generated: x -->\n<!-- /generated: x -->\nb"
