import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hangtag.serving.loadtest.comparison.compare import compare_targets
from hangtag.serving.loadtest.comparison.gate_outcomes import GateOutcome
from hangtag.serving.loadtest.errors import SavedResultsError
from hangtag.serving.loadtest.measuring.results import Results
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop
from hangtag.serving.loadtest.report import json_reader, json_writer, schema
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram
from tests.serving.loadtest.builders import block, full_results, results, two_models

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[4] / "docs"
FAILED_ENTIRELY = results(Run((block("fast", ClosedLoop(1), (), failed=7, finished=False),), 1))


def strict(schema_part: Any) -> Any:
    """The schema without additional properties, so that every written field has to be documented."""
    if isinstance(schema_part, dict):
        closed = {"additionalProperties": False} if "required" in schema_part else {}
        return {key: strict(value) for key, value in schema_part.items()} | closed
    return [strict(value) for value in schema_part] if isinstance(schema_part, list) else schema_part


@pytest.mark.parametrize("measured", [two_models(), full_results(), results(interrupted=True), FAILED_ENTIRELY])
def test_the_json_follows_its_schema_and_has_no_other_fields(measured: Results) -> None:
    text = json.dumps(
        json_writer.build(measured, compare_targets(measured), (GateOutcome("a", True, "b"),)), allow_nan=False
    )
    jsonschema.validate(json.loads(text), strict(schema.json_schema()))


def test_the_documented_schema_is_that_of_the_types() -> None:
    documented = json.loads((DOCS / "loadtest.schema.json").read_text())
    assert documented == schema.json_schema(), "run 'make schema'"
    jsonschema.Draft202012Validator.check_schema(documented)


def test_the_schema_says_what_its_fields_mean() -> None:
    fields = schema.json_schema()["$defs"]["RunDocument"]["properties"]
    assert fields["model"] == {"description": "The model's name on its server.", "type": "string"}
    assert fields["keeps_target"]["description"].startswith("Whether the percentile keeps the target latency,")
    assert "description" not in fields["valid"]  # Its name says enough.


def test_documents_that_break_the_schema_are_refused() -> None:
    document: dict[str, Any] = dict(json_writer.build(two_models(), ()))
    for broken in (document | {"runs": [{}]}, document | {"duration": "long"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema.json_schema())


def test_the_json_holds_the_histograms_and_the_figures_of_each() -> None:
    (run, *_) = json_writer.build(two_models(), ())["runs"]
    latency = run["total"]["latency"]
    histogram = DurationHistogram(latency["histogram"].encode())
    assert len(histogram) == latency["count"] == 5000
    assert histogram.percentile(99) == latency["p99"] == pytest.approx(0.00199, rel=0.01)
    assert len(run["blocks"]) == 5
    assert run["load"] == {"kind": "closed loop", "concurrency": 8, "rate": None, "arrivals": None}


def write(measured: Results, file: Path) -> Path:
    file.write_text(json.dumps(json_writer.build(measured, compare_targets(measured))))
    return file


def test_saved_results_are_read_again(tmp_path: Path) -> None:
    original = full_results()
    read = json_reader.read(write(original, tmp_path / "a.json"))
    assert len(read.runs) == len(original.runs)
    for run, before in zip(read.runs, original.runs, strict=True):
        assert (run.target, run.load, run.valid, run.problems) == (
            before.target,
            before.load,
            before.valid,
            before.problems,
        )
        assert (run.block_latencies() == before.block_latencies()).all()
        assert run.throughput == pytest.approx(before.throughput)
        assert (run.total.server is None) == (before.total.server is None)
        if run.total.server and before.total.server:
            assert run.total.server.mean("queue") == pytest.approx(before.total.server.mean("queue"))
    assert read.accuracies == {"fast": 0.9, "slow": 0.95}
    assert read.peaks == {"fast": 1450.0}


def test_results_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    """Files of the first version lack the fields that were added later."""
    document = json.loads(write(two_models(), tmp_path / "a.json").read_text())
    for name in ("targets", "peaks"):
        del document[name]
    for run in document["runs"]:
        for name in ("target", "batch_size", "planned_blocks", "percentile", "target_latency", "judged", "restarted"):
            del run[name]
        del run["generator_ceiling"], run["limited_by_generator"], run["counted_in_part"]
        for saved_block in run["blocks"]:
            for name in (
                "finished",
                "generator_cpu",
                "generator_busy",
                "generator_cpu_share",
                "cpus_busy",
                "others_cpu_share",
                "server",
            ):
                del saved_block[name]
    (tmp_path / "a.json").write_text(json.dumps(document))
    read = json_reader.read(tmp_path / "a.json")
    assert [(run.target, run.load) for run in read.runs] == [(run.target, run.load) for run in two_models().runs]
    assert all(run.valid for run in read.runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no results of .* but other JSON"),
        ('{"schema": "other/1"}', "but other/1"),
        ('{"schema": "hangtag.loadtest/1"}', "does not follow its own schema"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SavedResultsError, match=message):
        json_reader.read(tmp_path / "a.json")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SavedResultsError, match=r"missing\.json cannot be read: No such file"):
        json_reader.read(tmp_path / "missing.json")


def test_another_machine_is_recognised(tmp_path: Path) -> None:
    read = json_reader.read(write(two_models(), tmp_path / "a.json"))
    document = json.loads((tmp_path / "a.json").read_text())
    document["environment"]["CPU"] = "another processor"
    (tmp_path / "b.json").write_text(json.dumps(document))
    assert read.machine_differences(read.environment) == ()
    assert read.machine_differences(json_reader.read(tmp_path / "b.json").environment) == (
        "CPU: a processor and another processor",
    )
