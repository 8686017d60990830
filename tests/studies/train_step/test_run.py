"""The benchmark of a training step with real PyTorch workers; a fake worker answers for Keras with a constant."""

import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.training.data import fashion_mnist as data
from hangtag.training.networks.bfloat16 import cpu_computes_lstms_in_bf16
from studies import results
from studies.train_step import run
from studies.train_step.torch_worker import WAYS, per_step_ms
from studies.train_step.worker import worker

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path: Path) -> Path:
    few = data.load_test().first(32 * 4)
    np.savez(tmp_path / "images.npz", images=few.images, classes=few.classes)
    return tmp_path / "images.npz"


def test_a_step_is_timed_from_the_first_to_the_last() -> None:
    assert per_step_ms([10.0, 10.5, 11.0, 11.5]) == pytest.approx(500)


# PyTorch's compiler imports functions that PyTorch itself deprecates, and looks at the gradients of all tensors.
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script_method` is:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_train_takes_the_requested_steps(way: str) -> None:
    if way in ("hangtag", "compiled") and not cpu_computes_lstms_in_bf16():
        pytest.skip("this CPU computes no LSTM in bfloat16")
    few = data.load_test().first(32 * 4)
    assert 0 < WAYS[way]("64" if way == "product" else "lstm", 3, 1, few) < 60_000


def test_a_worker_answers_over_and_over_until_it_ends_which_is_an_error_with_the_end_of_its_log(images: Path) -> None:
    """It ends at a network that does not exist; another network was once trained in its place."""
    with worker([sys.executable, "-m", "studies.train_step.torch_worker", "plain", "1", images]) as working:
        assert working.step_ms("lstm", 2) > 0
        assert working.step_ms("lstm-56", 2) > 0
        with pytest.raises(click.ClickException, match=r"torch_worker plain 1 .* ended with status 1") as caught:
            working.step_ms("gru", 2)
    assert caught.value.message.endswith("KeyError: 'gru'")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("input(); print('soon', flush=True); input()", "answered 'soon' where milliseconds were expected"),
        ("import sys; sys.exit('no threads left')", "ended with status 1. Its last output:\nno threads left"),
        ("", "ended with status 0. Its last output:\nnothing"),
    ],
)
def test_a_program_that_is_no_worker_is_an_error(program: str, message: str) -> None:
    with worker([sys.executable, "-c", program]) as working, pytest.raises(click.ClickException) as caught:
        working.step_ms("lstm", 2)
    assert message in caught.value.message


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(click.ClickException, match="gone cannot be started"), worker(["gone"]):
        pytest.fail("it started")


@pytest.mark.skipif(not cpu_computes_lstms_in_bf16(), reason="this CPU computes no LSTM in bfloat16")
def test_the_command_measures_all_ways_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Keras: a program that answers with a constant replaces its worker. A test above has the other ways."""
    fake_keras = tmp_path / "keras_worker.py"
    fake_keras.write_text("import sys\nfor line in sys.stdin: print(100.0, flush=True)\n")
    torch_worker = Path(run.__file__).with_name("torch_worker.py")
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "STEPS", {"lstm": 2})
    monkeypatch.setattr(run, "SIDE", 64)
    assert {*run.WAYS[1:], run.PRODUCT} == {*WAYS}
    monkeypatch.setattr(run, "WAYS", ("keras", "hangtag"))
    monkeypatch.setattr(run, "GOALS", {"lstm": 3.5})
    monkeypatch.setattr(run, "_versions", lambda python, *packages: dict.fromkeys(packages, "1"))
    assert torch_worker.is_file()
    out = tmp_path / "results.jsonl"
    options = ["--keras-python", sys.executable, "--python", sys.executable, "--threads", "1", "--repeats", "3"]
    done = CliRunner().invoke(run.main, [*options, "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = results.read(out)
    conditions = lines.pop("conditions")
    assert (conditions["threads"], conditions["batch_size"]) == (1, 32)
    assert conditions["product_gflops"] > 0
    assert lines.keys() == {"lstm"}
    line = lines["lstm"]
    medians = line["median_ms"]
    assert medians.keys() == {"keras", "hangtag"}
    assert medians["keras"] == 100
    assert line["times_as_fast_as_keras"]["hangtag"] == pytest.approx(100 / medians["hangtag"], rel=0.01)
    assert line["goal"] == 3.5


def test_an_environment_without_keras_is_explained(tmp_path: Path) -> None:
    options = ["--keras-python", sys.executable, "--python", sys.executable, "--out", str(tmp_path / "results.jsonl")]
    done = CliRunner().invoke(run.main, options)
    assert done.exit_code == 1
    assert (
        "has no keras and tensorflow-cpu; 'make .venv/.dev .venv-keras/.keras' installs what is needed." in done.output
    )
