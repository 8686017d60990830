import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hangtag.training.data.fashion_mnist import FashionMnist, Images
from hangtag.training.errors import TeacherError
from hangtag.training.loop import trainer
from hangtag.training.metrics.single_label import evaluate
from hangtag.training.observer import Observer
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Distillation
from hangtag.training.runs.run import Run
from hangtag.training.tasks.onnx_teacher import Logits, OnnxTeacher
from hangtag.training.tasks.selection import build_task
from hangtag.training.tasks.teacher import TeacherEnsemble, published_teachers, teacher_logits
from tests.kit import shipped
from tests.training.configs import make_config, same_weights, weights
from tests.training.tasks.changed_models import changed, spoil

pytestmark = pytest.mark.slow

CNN, LSTM = (shipped.latest(name) for name in ("cnn", "lstm"))


def test_an_onnx_teacher_gives_the_exported_models_logits(teacher: OnnxTeacher, small: FashionMnist) -> None:
    logits = teacher(small.test.images)
    assert logits.shape == (len(small.test), 10)
    assert evaluate(logits, small.test.classes).accuracy > 0.85
    np.testing.assert_allclose(teacher(small.test.images[::-1])[::-1], logits, rtol=1e-4, atol=1e-4)


def test_a_teacher_is_identified_by_its_content(teacher: OnnxTeacher, tmp_path: Path) -> None:
    assert teacher.file.path == str(LSTM)
    assert teacher.file == OnnxTeacher(Path(shutil.copy(LSTM, tmp_path / "moved.onnx"))).file
    assert teacher.file != OnnxTeacher(CNN).file


def test_the_logits_of_several_teachers_are_averaged_in_any_order(teacher: OnnxTeacher, small: FashionMnist) -> None:
    images = small.test.images[:50]
    both = TeacherEnsemble([CNN, LSTM])
    np.testing.assert_allclose(both(images), (teacher(images) + OnnxTeacher(CNN)(images)) / 2, rtol=1e-6, atol=1e-6)
    assert both(images).dtype == np.float32
    assert [file.path for file in both.files] == [str(CNN), str(LSTM)]
    np.testing.assert_array_equal(TeacherEnsemble([LSTM, CNN])(images), both(images))
    np.testing.assert_array_equal(TeacherEnsemble([LSTM])(images), teacher(images))


def test_a_teacher_named_twice_is_refused(tmp_path: Path) -> None:
    copy = Path(shutil.copy(CNN, tmp_path / "copy.onnx"))
    with pytest.raises(TeacherError, match=r"the teachers .*\.onnx and .*\.onnx are the same model"):
        TeacherEnsemble([CNN, LSTM, copy])


def test_all_versions_teach_unless_others_are_named(tmp_path: Path) -> None:
    for version in ("2", "10", "notes"):
        (tmp_path / "cnn" / version).mkdir(parents=True)
        (tmp_path / "cnn" / version / "model.onnx").touch()
    assert published_teachers("cnn", tmp_path) == [tmp_path / "cnn" / version / "model.onnx" for version in ("2", "10")]


def test_no_teacher_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        TeacherError,
        match=r"no cnn under .* to learn from\. Name .*FILE\.onnx"
        r".*train cnn --recipe teacher, .*export cnn --models runs/teachers\.$",
    ):
        published_teachers("cnn", tmp_path)
    with pytest.raises(
        TeacherError, match=r"train cnn --recipe teacher, .*export cnn --precision int8 --models runs/teachers\.$"
    ):
        published_teachers("cnn-int8", tmp_path)
    with pytest.raises(TeacherError, match=r"cannot be read \(No such file or directory\)"):
        OnnxTeacher(tmp_path / "cnn.onnx")
    (tmp_path / "cnn.onnx").write_bytes(CNN.read_bytes()[:1000])
    with pytest.raises(TeacherError, match="cannot be loaded as a model"):
        OnnxTeacher(tmp_path / "cnn.onnx")


def rename_logits(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "scores"
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        node.input[:] = ["scores" if name == "logits" else name for name in node.input]


def fix_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32


def other_labels(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "hangtag.labels":
            entry.value = json.dumps([f"digit {digit}" for digit in range(10)])


def labels_that_are_none(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "hangtag.labels":
            entry.value = "10"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_logits, r"must have the input image: UINT8 .* but its inputs are .* and its outputs .*scores"),
        (
            fix_batch,
            r"takes only batches of 32; it must take any number of images, like the models that 'hangtag export'",
        ),
        (other_labels, r"has the labels digit 0, .*digit 9; it must have T-shirt/top, .*, in this order"),
        (labels_that_are_none, r"has the labels none; it must have"),
    ],
)
def test_a_model_of_another_task_cannot_teach(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    with pytest.raises(TeacherError, match=message):
        OnnxTeacher(changed(tmp_path / "other.onnx", change))


def test_logits_that_are_not_finite_are_refused(tmp_path: Path, small: FashionMnist) -> None:
    teacher = OnnxTeacher(changed(tmp_path / "spoiled.onnx", spoil))
    with pytest.raises(TeacherError, match=r"spoiled\.onnx gave logits that are not finite for 5 of 5 images"):
        teacher(small.test.images[:5])


def test_a_teacher_that_fails_on_the_images_is_reported(teacher: OnnxTeacher) -> None:
    with pytest.raises(TeacherError, match=r"model\.onnx fails on the images \(.*INVALID_ARGUMENT"):
        teacher(np.zeros((2, 64, 64), np.uint8))


def test_without_onnx_runtime_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TeacherError, match=r"needs the Python module 'onnxruntime'.*pip install '\.\[cpu\]'"):
        OnnxTeacher(CNN)


def test_teacher_logits_report_progress_and_can_be_stopped_between_batches(
    teacher: OnnxTeacher, small: FashionMnist
) -> None:
    class Counting(Observer):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def on_teacher_logits(self, answered: int, images: int) -> None:
            self.seen.append((answered, images))

        def stop_requested(self) -> bool:
            return len(self.seen) == 2

    watch, images = Counting(), small.train.images[:700]
    logits = teacher_logits(teacher, images, ProcessGroup(), watch)
    assert watch.seen == [(1000, 1400), (1400, 1400)]
    both = (teacher(images[500:]) + teacher(images[500:, :, ::-1])) / 2
    np.testing.assert_array_equal(logits[500:], both)
    with pytest.raises(KeyboardInterrupt):
        teacher_logits(teacher, images, ProcessGroup(), watch)


def test_a_student_learns_from_its_teacher_despite_wrong_labels(
    teacher: OnnxTeacher, small: FashionMnist, tmp_path: Path
) -> None:
    """From wrong labels and a good teacher, with the teacher's word alone, it learns what is right."""
    wrong = replace(small, train=replace(small.train, classes=(small.train.classes + 1) % 10))
    config = make_config(limit=800, epochs=3)
    recipe = replace(config.recipe, distillation=Distillation("lstm", weight=1.0, temperature=2.0))
    config = replace(config, recipe=recipe, teachers=(teacher.file,))
    taught = trainer.train(config, wrong, Run(tmp_path / "taught"), teacher=teacher)
    assert taught["summary"]["test"]["accuracy"] > 0.4
    assert Run(tmp_path / "taught").read_config()["teachers"] == [{"digest": teacher.file.digest, "path": str(LSTM)}]

    untaught = trainer.train(make_config(limit=800, epochs=3), wrong, Run(tmp_path / "untaught"))
    assert untaught["summary"]["test"]["accuracy"] < 0.2
    assert not same_weights(weights(tmp_path / "taught"), weights(tmp_path / "untaught"))
    shutil.rmtree(tmp_path)


def test_constructing_a_task_computes_no_teacher_logits_and_precompute_does_with_progress(
    small: FashionMnist, tmp_path: Path
) -> None:
    calls: list[int] = []

    def teacher(images: Images) -> Logits:
        calls.append(len(images))
        return np.zeros((len(images), 10), np.float32)

    class Recording(Observer):
        def __init__(self) -> None:
            self.progress: list[tuple[int, int]] = []

        def on_teacher_logits(self, done: int, total: int) -> None:
            self.progress.append((done, total))

    observer = Recording()
    task = build_task(make_config(limit=600), small, torch.device("cpu"), teacher, observer=observer)
    assert calls == []
    task.precompute(ProcessGroup(), Run(tmp_path))
    assert calls == [500, 500, 100, 100]
    assert observer.progress == [(1000, 1200), (1200, 1200)]
