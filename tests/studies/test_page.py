"""Marked parts of pages, tables, and the sentences' formats."""

import click
import pytest

from studies.page import ROOT, code, made_from, replace_part, short_revision, spread, table

BEGIN, END = "<!-- part: x (written by make docs) -->", "<!-- end of part: x -->"


def test_a_marked_part_is_replaced_and_the_rest_stays() -> None:
    text = replace_part(f"a\n{BEGIN}\nold\n{END}\nb\n", "x", "new")
    assert text == f"a\n{BEGIN}\n\nnew\n\n{END}\nb\n"
    assert replace_part(text, "x", "new") == text


@pytest.mark.parametrize("text", ["a page", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n"])
def test_a_page_with_no_such_part_or_with_two_is_refused(text: str) -> None:
    with pytest.raises(click.ClickException, match=r"the page has [02] parts between <!-- part: x .*, expected one"):
        replace_part(text, "x", "new")


def test_a_table_keeps_its_columns_whatever_is_in_a_cell() -> None:
    assert table(("a", "b"), [("x|y", "<z>")], right=1) == "| a | b |\n| --- | ---: |\n| x\\|y | &lt;z> |"


def test_one_value_has_no_deviation() -> None:
    assert spread([1.234]) == "1.23"
    assert spread([-1.0, -2.0], signed=True) == "-1.50 ± 0.71"


def test_names_are_listed_as_a_sentence_lists_them() -> None:
    assert code(["a"]) == "`a`"
    assert code(["a", "b", "c"]) == "`a`, `b` and `c`"


@pytest.mark.parametrize(("instructions", "shown"), [(["AVX2", "AMX"], " with AVX2, AMX"), ([], "")])
def test_a_part_says_what_it_is_made_from(instructions: list[str], shown: str) -> None:
    conditions = {
        "date": "2026-01-01", "cpus": 2, "processor": "a processor", "instructions": instructions,
        "versions": {"a": "1", "b": "2"}, "command": "python -m studies x run",
    }  # fmt: skip
    assert made_from(ROOT / "studies/x/results.jsonl", conditions) == (
        "Made by `make docs` from [studies/x/results.jsonl](../studies/x/results.jsonl), measured 2026-01-01 on 2 CPUs "
        f"(a processor{shown}; a 1, b 2) by `python -m studies x run`"
    )


def test_a_short_revision_says_whether_files_had_changed() -> None:
    assert short_revision("0123456789abcdef") == "0123456789ab"
    assert short_revision("0123456789abcdef-dirty") == "0123456789ab-dirty"
    assert short_revision("unknown") == "unknown"
