import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.training.errors import RunMismatchError
from hangtag.training.runs.run import Run
from tests.training.configs import begin


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "one")


def finish(run: Run) -> None:
    run.write_metrics({"epochs": [], "summary": {}})


def test_erasing_deletes_the_runs_files_and_no_others(run: Run) -> None:
    begin(run)
    run.save("best.pt", {})
    run.save("checkpoint.pt", {})
    run.write_metrics({})
    (run.folder / "checkpoint.pt.tmp").write_text("what a kill left")
    (run.folder / "notes.txt").write_text("mine")
    run.erase()
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]


def test_erasing_a_missing_run_is_no_error(run: Run) -> None:
    run.erase()


def test_two_processes_cannot_train_in_one_folder(run: Run) -> None:
    with run.lock():
        with pytest.raises(RunMismatchError, match="another process is training in"), Run(run.folder).lock():
            pytest.fail("two held the lock")
        with pytest.raises(RunMismatchError, match="another process is training in"):
            Run(run.folder).erase()
    with Run(run.folder).lock():
        pass


def test_the_lock_is_released_after_an_error(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock():
        pass


def test_a_state_is_loaded_as_it_was_saved(run: Run) -> None:
    begin(run)
    run.save("best.pt", {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "epoch": 4})
    state = run.load("best.pt")
    assert torch.equal(state["model"]["weight"], torch.arange(6.0).reshape(2, 3))
    assert state["epoch"] == 4
    assert not run.has("best.pt.tmp")


def test_a_save_that_fails_leaves_the_old_file(run: Run) -> None:
    begin(run)
    run.save("best.pt", {"epoch": 1})
    (run.folder / "best.pt.tmp").symlink_to("/dev/full")  # a disk without space
    with pytest.raises(RunMismatchError, match=r"best\.pt cannot be written \(No space left on device\)"):
        run.save("best.pt", {"epoch": 2, "model": torch.zeros(100_000)})
    assert run.load("best.pt") == {"epoch": 1}


def test_metrics_that_cannot_be_written_leave_the_old_ones(run: Run) -> None:
    begin(run)
    run.write_metrics({"epochs": [1]})
    (run.folder / "metrics.json.tmp").symlink_to("/dev/full")
    with pytest.raises(RunMismatchError, match=r"metrics\.json cannot be written"):
        run.write_metrics({"epochs": [1, 2]})
    assert run.read_metrics() == {"epochs": [1]}


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunMismatchError, match="cannot be written"):
            begin(Run(folder))


@pytest.mark.parametrize(
    "contents",
    [b"", b"hello world\n", b'{"a": 1}', b"\x80\x04K\x01.", bytes(1_000), b"PK\x03\x04 and nothing more"],
    ids=["empty", "text", "json", "pickle", "zeros", "zip"],
)
def test_a_file_that_is_not_a_checkpoint_is_refused_in_one_line(run: Run, contents: bytes) -> None:
    begin(run)
    (run.folder / "best.pt").write_bytes(contents)
    with pytest.raises(RunMismatchError) as caught:
        run.load("best.pt")
    message = str(caught.value)
    assert message.startswith(f"{run.folder / 'best.pt'} cannot be read as a checkpoint (")
    assert "\n" not in message
    assert "weights_only" not in message  # torch's advice would be to run code from the file


def test_a_missing_checkpoint_is_refused(run: Run) -> None:
    with pytest.raises(RunMismatchError, match=r"best\.pt cannot be read as a checkpoint \(.*No such file"):
        run.load("best.pt")


def test_a_tensor_is_not_a_state(run: Run) -> None:
    begin(run)
    torch.save(torch.zeros(3), run.folder / "best.pt")
    with pytest.raises(RunMismatchError, match="it holds no state"):
        run.load("best.pt")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_byte_is_noticed_or_harmless(run: Run, where: float, flip: int) -> None:
    weight = torch.arange(500.0)
    run.folder.mkdir(parents=True, exist_ok=True)
    run.save("best.pt", {"model": weight})
    contents = bytearray((run.folder / "best.pt").read_bytes())
    contents[int(where * len(contents))] ^= flip
    (run.folder / "best.pt").write_bytes(contents)
    try:
        state = run.load("best.pt")
    except RunMismatchError:
        return
    assert torch.equal(state["model"], weight)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_truncated_checkpoint_is_noticed(run: Run, kept: float) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.save("best.pt", {"model": torch.arange(500.0)})
    contents = (run.folder / "best.pt").read_bytes()
    (run.folder / "best.pt").write_bytes(contents[: int(kept * len(contents))])
    with pytest.raises(RunMismatchError):
        run.load("best.pt")


@pytest.mark.parametrize("contents", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_broken_json_is_refused_in_one_line(run: Run, name: str, contents: bytes) -> None:
    begin(run)
    (run.folder / name).write_bytes(contents)
    with pytest.raises(RunMismatchError) as caught:
        run.read_config() if name == "config.json" else run.read_metrics()
    assert str(caught.value).startswith(str(run.folder / name))
    assert "\n" not in str(caught.value)


# Finding a run.


def test_a_run_is_found_by_folder_and_by_name(run: Run) -> None:
    begin(run)
    assert Run.find(str(run.folder), Path("elsewhere")).folder == run.folder
    assert Run.find("one", run.folder.parent).folder == run.folder


@pytest.mark.parametrize("name", ["best.pt", "checkpoint.pt"])
def test_a_checkpoint_stands_for_the_run_that_it_is_of(run: Run, name: str) -> None:
    begin(run)
    assert Run.find(str(run.folder / name), Path("elsewhere")).folder == run.folder
    assert Run.find(f"one/{name}", run.folder.parent).folder == run.folder
    with pytest.raises(RunMismatchError, match=rf"no finished run '{name}'"):
        Run.find(name, run.folder.parent)  # a checkpoint without a config.json belongs to no run


def test_a_model_names_its_latest_finished_run(tmp_path: Path) -> None:
    for at, (name, model, done) in enumerate(
        [("old", "lstm", True), ("new", "lstm", True), ("unfinished", "lstm", False), ("other", "cnn", True)]
    ):
        run = Run(tmp_path / name)
        begin(run, model=model)
        finish(run) if done else run.write_metrics({"epochs": []})
        os.utime(run.folder / "metrics.json", (at, at))
    assert Run.find("lstm", tmp_path).folder == tmp_path / "new"
    assert Run.find("cnn", tmp_path).folder == tmp_path / "other"


def test_an_unknown_run_is_answered_with_the_existing_runs_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"runs there: none.*hangtag train lstm$"):
        Run.find("lstm", tmp_path)
    with pytest.raises(RunMismatchError, match=r"Train one with: hangtag train MODEL$"):
        Run.find("runs/lstm-best", tmp_path)
    begin(Run(tmp_path / "b"))
    begin(Run(tmp_path / "a"))
    with pytest.raises(RunMismatchError, match=r"no finished run 'lstm'.*runs there: a, b"):
        Run.find("lstm", tmp_path)


def test_a_config_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"seed": 0}')
    with pytest.raises(RunMismatchError, match=r"config\.json names no model\. 'hangtag train' with --restart"):
        _ = Run(tmp_path).model
