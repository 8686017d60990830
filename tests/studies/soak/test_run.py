"""`python -m studies soak run`: a short run on real servers, and one whose answers count as wrong."""

import asyncio
import dataclasses
import os
import random
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from studies import results
from studies.page import ROOT
from studies.server.process import Served, hangtag_serve, served
from studies.soak import pictures, report
from studies.soak.answers import ROUTE, Answers, threshold_of_route
from studies.soak.calls import KINDS
from studies.soak.changes import Changes
from studies.soak.connections import Address, Connections
from studies.soak.load import outcome_of
from studies.soak.report import call_rows, text
from studies.soak.run import SAMPLES, main, remark
from studies.soak.servers import repository
from studies.soak.situation import SPLIT, Callers, Situation
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


def test_a_run_calls_publishes_kills_and_records_also_if_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = Changes.kill

    def kill_and_interrupt(changes: Changes) -> None:
        kill(changes)
        if len(changes.kills) >= 2 and changes.seconds_to_serve:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Changes, "kill", kill_and_interrupt)
    out = tmp_path / "results.jsonl"
    arguments = ["--minutes", "20", "--rate", "60", "--version-seconds", "1", "--kill-seconds", "4"]
    result = CliRunner().invoke(
        main,
        [*arguments, "--models", str(MODELS), "--samples", str(SAMPLES), "--out", str(out), "--remark", "On a laptop."],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    (line,) = results.read(out).values()
    assert (line["wrong"], line["problems"], line["log_errors"]) == (0, [], []), result.output
    assert line["interrupted"]
    assert line["calls"] > 50
    assert {kill["server"] for kill in line["kills"]} == {"native", "grpc with TLS"}
    assert line["model_versions"] >= 1
    for processes in line["processes"].values():
        assert processes["worker 1"]["lived_on"]
        assert processes["supervisor"]["rss_mb"][0] > 20
        assert processes["worker 1"]["threads_first_last_max"][2] > 5
    assert sum(int(row[1]) for row in call_rows(line)[1:]) > 10
    assert str(line["calls"]) in text(out)
    assert "On a laptop.\n" in text(out)
    assert pictures.processes(line).axes
    assert pictures.latency(line).axes
    assert out.stat().st_size < 60_000


def test_every_kind_of_call_ends_as_it_should_and_a_wrong_answer_is_seen() -> None:
    answers = Answers.computed(MODELS, SAMPLES)
    spoiled = dataclasses.replace(
        answers,
        outputs={
            model: {name: array + np.float32(0.01) for name, array in arrays.items()}
            for model, arrays in answers.outputs.items()
        },
    )

    async def outcomes(address: Address, answers: Answers) -> list[tuple[str, str]]:
        async with AsyncExitStack() as stack:
            situation = Situation(await Connections.open(address, stack), answers, random.Random(0))
            return [await outcome_of(kind, situation) for kind in KINDS]

    with repository(MODELS) as models, served(hangtag_serve(models)) as server:
        address = Address("any", server.address, server.http)
        assert asyncio.run(outcomes(address, answers)) == [("", "")] * len(KINDS)
        errors = [error for error, _ in asyncio.run(outcomes(address, spoiled))]
        assert server.errors == []
    compared = [error for kind, error in zip(KINDS, errors, strict=True) if not kind.fails]
    assert compared == ["wrong answer"] * len(compared)


async def errors(name: str, calls: int, server: Served) -> set[str]:
    """What comes of calls of one kind."""
    kind = next(kind for kind in KINDS if name in kind.name)
    async with AsyncExitStack() as stack:
        connections = await Connections.open(Address("any", server.address, server.http), stack)
        situation = Situation(connections, Answers.computed(MODELS, SAMPLES), random.Random(0), Callers())
        return {(await outcome_of(kind, situation))[0] for _ in range(calls)}


@pytest.mark.parametrize("sticky", [True, False])
def test_a_split_that_forgets_its_callers_is_seen(sticky: bool) -> None:

    with repository(MODELS) as models:
        if not sticky:
            file = models / SPLIT / "route.toml"
            file.write_text(file.read_text().replace('sticky = "x-user-id"', ""))
        with served(hangtag_serve(models)) as server:
            assert asyncio.run(errors("split", 100, server)) == ({""} if sticky else {"", "wrong answer"})
            assert min(server.answered(model).calls for model in ("lstm", "cnn")) > 20


def test_the_shadow_computes_what_another_model_answers() -> None:
    with repository(MODELS) as models, served(hangtag_serve(models)) as server:
        assert asyncio.run(errors("shadow", 20, server)) == {""}
        assert server.answered("lstm").calls == 20
        assert server.answered("cnn").batches > 0


def test_a_cascades_answer_is_its_first_members_where_that_is_sure() -> None:
    answers = Answers.computed(MODELS, SAMPLES)
    fast = answers.outputs["lstm"]["probabilities"].max(axis=1)
    sure = fast >= threshold_of_route(MODELS)
    for member, chosen in (("lstm", sure), ("cnn", ~sure)):
        assert chosen.any()
        expected = answers.outputs[member]["logits"][chosen]
        np.testing.assert_array_equal(answers.outputs[ROUTE]["logits"][chosen], expected)


def test_without_results_the_page_says_which_command_measures(tmp_path: Path) -> None:
    assert "measured yet: `python -m studies soak run --hours 1`" in text(tmp_path / "results.jsonl")


def test_a_remark_is_written_below_the_goals_of_the_longest_run(tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    longest = report.longest() | {"remark": None}
    results.write(out, [longest, longest | {"run": "short", "minutes": 0.1}])
    for said in ("A backup ran.", ""):
        result = CliRunner().invoke(remark, [said, "--out", str(out)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert [line.get("remark") for line in results.read(out).values()] == [said, None]
        assert ("\n\nA backup ran.\n\n" in text(out)) == bool(said)


def test_hours_and_minutes_are_one_choice() -> None:
    result = CliRunner().invoke(main, ["--hours", "1", "--minutes", "5", "--models", str(ROOT / "models")])
    assert result.exit_code == 2
    assert "not both" in result.output
