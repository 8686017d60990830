import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from click.testing import Result

from hangtag.training.labels import distance as label_distance
from hangtag.training.runs.run import Run
from tests.kit import shipped
from tests.training.command import EPOCHS, contents, hangtag, one_error, start, wait_until
from tests.training.configs import figures, same_weights, weights

pytestmark = pytest.mark.slow


def test_a_killed_command_resumes_and_ends_with_the_same_weights(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    with start(arguments, tmp_path) as process:
        wait_until((tmp_path / "metrics.json").is_file, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = len(Run(tmp_path).read_metrics()["epochs"])
    assert not Run(tmp_path).is_finished()
    assert 1 <= done < EPOCHS

    with start(arguments, tmp_path) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert figures(Run(tmp_path).read_metrics()) == figures(Run(finished[0]).read_metrics())
    assert same_weights(weights(tmp_path), weights(finished[0]))


def test_ctrl_c_ends_with_one_line_and_the_run_resumes(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    with start(arguments, tmp_path) as process:
        wait_until((tmp_path / "checkpoint.pt").is_file, process)
        process.send_signal(signal.SIGSTOP)  # so that it cannot finish while we look
        at_work = one_error(hangtag(arguments, tmp_path))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, stderr = process.communicate(timeout=120)
    assert f"another process is training in {tmp_path}" in at_work
    assert process.returncode == 130, stderr
    stopped, _, command = stderr.splitlines()[-1].partition(": hangtag ")
    assert stopped == "stopped. Continue from the last finished epoch with"
    assert "Traceback" not in stderr
    assert not Run(tmp_path).is_finished()

    assert hangtag(shlex.split(command)).exit_code == 0
    assert figures(Run(tmp_path).read_metrics()) == figures(Run(finished[0]).read_metrics())
    assert same_weights(weights(tmp_path), weights(finished[0]))


@pytest.mark.usefixtures("few_test_images")
def test_the_command_to_resume_has_every_option(raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    models = [Path(shutil.copy(shipped.latest(name), tmp_path / f"a {name}.onnx")) for name in ("cnn", "lstm")]
    distances = Path(shutil.copy(label_distance.DEFAULT_PATH, tmp_path / "my distances.json"))
    options = [
        "train", "cnn", "--recipe", "same-view", *(f"--teacher={model}" for model in models),
        "--loss", "embedding-distance", "--beta", "2.5",
        "--loss-weight", "0.25", "--distances", str(distances), "--data-dir", str(raw_dir), "--seed", "3",
        "--limit", "64", "--epochs", "1", "--threads", "1", "--precision", "bf16", "--device", "cpu",
    ]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupt)
        stopped = hangtag([*options, "--restart"], tmp_path / "a run")
    assert stopped.exit_code == 130
    command = stopped.stderr.splitlines()[-1].partition(": hangtag ")[2]
    assert "--restart" not in command
    message = one_error(hangtag(["export", str(tmp_path / "a run")]))
    assert message.endswith(f"is not finished (0 epochs so far). Continue with: hangtag {command}")
    done = hangtag(shlex.split(command))
    assert done.exit_code == 0, done.output
    assert Run(tmp_path / "a run").is_finished()


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "checkpoint.pt", "best.pt"])
@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_a_broken_file_is_named_in_one_line(
    arguments: list[str], broken_off: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(broken_off, folder)
    whole = (folder / name).read_bytes()
    spoiled = {"empty": b"", "text": b"hello\n", "half": whole[: len(whole) // 2]}[damage]
    (folder / name).write_bytes(spoiled)
    before = contents(folder)
    message = one_error(hangtag(arguments, folder))
    assert message.startswith(f"Error: {folder / name} ")
    assert "--restart" in message
    assert contents(folder) == before
