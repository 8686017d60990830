"""``hangtag export RUN``: its output, its exit codes, and its comparison with the served version."""

import json
import math
import re
import shutil
import signal
from pathlib import Path

import onnx
import pytest

from hangtag.export.errors import ExportError, GateError
from tests.kit import forkserver, onnx_file, onnx_models
from tests.kit.command import contents, invoke, refusal
from tests.kit.exported import Export, Exported, Garments, publish
from tests.kit.shipped import MODELS, latest
from tests.kit.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, so that the relative default folders runs/ and models/ are outside the checkout."""
    monkeypatch.chdir(tmp_path)


def test_it_publishes_and_lists_the_passed_checks(of_run: Export, runs_dir: Path) -> None:
    assert of_run.stderr.startswith(f"exporting {runs_dir / 'older'} in fp32\n")
    output = re.fullmatch(
        r"published models/lstm/1\n"
        r"  TRIAL RUN    trained on 32 images only\n"
        r"  structure    valid ONNX, 7 nodes, 0\.\d\d MB\n"
        r"  contract     names, datatypes and free batch axis are as expected\n"
        r"  parity       logits within \d\.\de-0\d of PyTorch at batch 1, 2, 3, 7, 16, 64\n"
        r"  agreement    test accuracy (\d+\.\d\d)% of 10,000 images, every answer like PyTorch's\n"
        r"  calibration  expected calibration error \d+\.\d\d%\n"
        r"  batching     the same answer alone and in any batch.*\n"
        r"  cuda         .*\n",
        of_run.stdout,
    )
    assert output, of_run.stdout
    metadata = onnx_file.metadata(of_run.folder / "models/lstm/1/model.onnx")
    assert f"{float(output[1]) / 100:.4f}" == metadata["test_accuracy"]


def test_ctrl_c_while_the_gate_works_ends_with_one_line(runs_dir: Path, tmp_path: Path) -> None:
    with forkserver.hangtag(["export", "older", "--runs", runs_dir]) as process:
        until(lambda: list(tmp_path.glob("models/.publishing-*")))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "stopped"
    assert "Traceback" not in stderr
    assert not list(tmp_path.iterdir())


def test_a_run_that_cannot_be_exported_is_named_with_what_to_do(runs_dir: Path, tmp_path: Path) -> None:
    unknown = refusal("export", "nosuch", "--runs", runs_dir, unchanged=tmp_path)
    assert "no finished run 'nosuch'" in unknown
    assert "runs there: begun, newer, older" in unknown
    assert "hangtag train MODEL" in unknown
    none = refusal("export", "cnn", unchanged=tmp_path)
    assert "(runs there: none)" in none
    begun = refusal("export", runs_dir / "begun", unchanged=tmp_path)
    assert begun.startswith(f"{runs_dir / 'begun'} is not finished (0 epochs so far). Continue with: ")
    assert "--data-dir" in refusal("export", runs_dir / "older", "--data-dir", tmp_path, unchanged=tmp_path)


def test_a_trial_run_does_not_replace_the_shipped_model(runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "lstm", "models/lstm")
    message = refusal("export", "lstm", "--runs", runs_dir, unchanged=tmp_path)
    assert re.search(r"^predecessor: test accuracy .* and version 2, which is served now, has 93\.09%\.", message)
    assert "The run is a trial, trained on 32 images only." in message
    assert "--even-if-worse" in message


def test_on_request_it_is_published_named_as_worse_and_serves_unless_another_was_promoted(
    runs_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(MODELS / "lstm", "shop/lstm")
    repository = ("--models", "shop")
    invoke("models", "promote", "lstm", "1", *repository)
    result = invoke("export", "lstm", "--runs", runs_dir, "--even-if-worse", *repository)
    assert result.stdout.startswith("published shop/lstm/3\n  TRIAL RUN    trained on 32 images only\n")
    worse = r"  predecessor  WORSE, but published: test accuracy .* and version 1, which is served now, has "
    assert re.search(worse, result.stdout)
    assert "note: version 1 is promoted and is still served. Next: hangtag models promote lstm 3" in result.stderr
    invoke("models", "promote", "lstm", "latest", *repository)
    shown = " ".join(invoke("models", "show", "lstm", *repository).stdout.split())
    assert "TRIAL RUN: trained on 32 images only" in shown
    listed = invoke("models", "list", *repository).stdout
    assert "TRIAL RUN: trained on 32 images only" in listed
    assert "test accuracy" in listed.splitlines()[0]


def test_a_model_without_a_figure_that_cannot_be_measured_is_replaced_only_on_request(
    lstm: Exported, few: Garments, tmp_path: Path
) -> None:
    models = tmp_path / "models"

    def incomparable() -> str:
        before = contents(models)
        with pytest.raises(ExportError) as error:
            publish(lstm.run, models, few, graph=lstm.graph)
        assert contents(models) == before
        return str(error.value)

    for version, figure in enumerate(("", "much", "nan", "7"), start=1):
        no_share = onnx_file.with_metadata(lstm.file, test_accuracy=figure, training=None, image=None)
        onnx_models.publish(models, "lstm", no_share, version=version)
        expected = rf"models/lstm version {version}, which is served now, records no test figure, so .* add"
        assert re.search(expected, incomparable())
    other = onnx_file.with_metadata(no_share, data_digest="other", test_accuracy="0.9000")
    onnx_models.publish(models, "lstm", other, version=5)
    assert re.search(r"was tested on another data set \(test accuracy 90\.00%\), so nothing", incomparable())
    assert publish(lstm.run, models, few, graph=lstm.graph, even_if_worse=True).folder.name == "6"
    better = onnx_file.with_metadata(lstm.file, test_accuracy="0.9990")
    onnx_models.publish(models, "lstm", better, version=7)
    with pytest.raises(GateError, match="version 7, which is served now, has"):
        publish(lstm.run, models, few, graph=lstm.graph)
    (models / "lstm/8").mkdir()
    (models / "lstm/8/model.onnx").write_bytes(b"damaged")  # a version that cannot be loaded does not serve
    assert publish(lstm.run, models, few, graph=lstm.graph).folder.name == "9"


@pytest.mark.parametrize(("standard_errors", "worse"), [(-1, False), (1.5, False), (1.8, True)])
def test_a_file_is_worse_where_chance_does_not_explain_what_it_lacks(
    standard_errors: float, worse: bool, lstm: Exported, few: Garments, tmp_path: Path
) -> None:
    """The new version is worse if its accuracy is more than 1.645 standard errors below the served version's."""
    own = float(lstm.published.metadata["test_accuracy"])
    serving = own + standard_errors * math.sqrt(2 * own * (1 - own) / len(few))
    served = onnx_file.with_metadata(lstm.file, test_accuracy=f"{serving:.4f}")
    onnx_models.publish(tmp_path / "models", "lstm", served)
    figures = re.escape(f"test accuracy {own:.2%}, and version 1, which is served now, has {serving:.2%}")
    if worse:
        lost = re.escape(f"{100 * (serving - own):.2f}")
        with pytest.raises(
            GateError, match=rf"{figures}\. The new version is {lost} points worse, and chance explains only \d\.\d\d"
        ):
            publish(lstm.run, tmp_path / "models", few, graph=lstm.graph)
    else:
        published = publish(lstm.run, tmp_path / "models", few, graph=lstm.graph)
        assert re.search(f"{figures}; 300 test images are too few to tell the two apart", str(published.summaries))
        assert json.loads(published.metadata["gate"])["predecessor"]["worse"] is False


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["export"], "Usage: "),
        (["export", "lstm", "--precision", "int3"], "Usage: "),
        (
            ["export", latest("lstm"), "--precision=int8"],
            "'hangtag import' publishes files; 'hangtag export' needs the name",
        ),
        (["import", "x.onnx"], "Missing option '--name'"),
        (["import", "x.onnx", "--name=x", "--preprocessing", " "], "--preprocessing is empty"),
        *(
            (["import", "x.onnx", "--name=x", option], f"{option.partition('=')[0]}: for --precision int8, which")
            for option in ("--calibration=x.npz", "--agree-at-least=99", "--agree-on=x=values")
        ),
        (["import", "x.onnx", "--name=x", "--precision=fp16"], "'fp16' is not one of 'fp32', 'int8'"),
        (["import", "x.onnx", "--name=x", "--precision=int8"], "--precision int8 needs samples: add --calibration or"),
        (
            ["import", "x.onnx", "--name=x", "--precision=int8", "--calibration=x.npz", "--agree-at-least=nan"],
            "is not a finite number",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(command: list[object], message: str) -> None:
    assert message in " ".join(invoke(*command, exit_code=2).stderr.split())


@pytest.mark.parametrize(
    ("options", "warning", "message"),
    [
        (["--onnx=theirs.onnx", "--name", "x", "--labels", "no.txt"], "write 'hangtag import FILE", "no.txt cannot be"),
        (["nosuch", "--timing=none"], "It has no effect", "no finished run"),
        ([MODELS, "--calibrate"], "Write --fit-temperature", "no finished run"),
    ],
)
def test_the_forms_of_the_last_release_work_with_a_warning(
    options: list[object], warning: str, message: str, tmp_path: Path
) -> None:
    onnx.save(onnx_models.classifier(), tmp_path / "theirs.onnx")
    result = invoke("export", *options, exit_code=1, columns=500)
    assert warning in result.stderr.splitlines()[0]
    assert message in result.stderr.splitlines()[-1]
