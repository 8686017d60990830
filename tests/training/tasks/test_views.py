"""A teacher that answers augmented images, and a student that sees them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hangtag.training.data.fashion_mnist import FashionMnist, Images
from hangtag.training.errors import RunMismatchError, TeacherError
from hangtag.training.loop import trainer
from hangtag.training.observer import StepProgress
from hangtag.training.processes.process_group import ProcessGroup
from hangtag.training.recipes import Augmentation, Distillation
from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.run import Run
from hangtag.training.tasks.onnx_teacher import Logits, OnnxTeacher
from hangtag.training.tasks.selection import build_task
from tests.training.broken_runs import CheckpointKeptRun, assert_same_outcome
from tests.training.configs import OnStep, make_config
from tests.training.tasks.changed_models import changed, spoil

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def same_view(teacher: OnnxTeacher) -> RunConfig:
    """A run whose teacher, the shipped lstm, answers three augmented images of each."""
    config = make_config(limit=64)
    recipe = replace(
        config.recipe,
        augmentation=Augmentation(flip=True, shift=2, erase=1.0),
        distillation=Distillation("cnn", weight=1.0, temperature=2.0, views=3),
    )
    return replace(config, recipe=recipe, teachers=(teacher.file,))


def test_a_teacher_of_the_same_view_sees_exactly_what_the_student_sees(
    same_view: RunConfig, small: FashionMnist, tmp_path: Path
) -> None:
    to_teacher: list[Images] = []
    to_student: list[Images] = []

    def answer(images: Images) -> Logits:
        """Logits that depend on the view, and are the same for its mirror image."""
        logits: Logits = np.eye(10, dtype=np.float32)[images.sum((1, 2), dtype=np.int64) % 10]
        return logits

    def teacher(images: Images) -> Logits:
        to_teacher.append(images)
        return answer(images)

    class Student(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            to_student.append((pixels * 255).round().byte().numpy())
            return torch.from_numpy(answer(to_student[-1]))

    task = build_task(same_view, small, torch.device("cpu"), teacher)
    task.precompute(ProcessGroup(), Run(tmp_path))
    assert len(task) == 64
    assert [len(images) for images in to_teacher] == [3 * 64] * 2  # three views of each, and their mirror images
    losses = [task.training_step(Student(), torch.arange(64)).loss for _ in range(4)]
    assert [float(loss) for loss in losses] == [pytest.approx(0.0, abs=1e-6)] * 4  # it answers like its teacher
    answered = {image.tobytes() for images in to_teacher for image in images}
    seen = [[image.tobytes() for image in images] for images in to_student]
    assert answered.issuperset(image for images in seen for image in images)
    assert len(to_teacher) == 2  # nothing is asked in the steps
    assert len({images[0] for images in seen}) > 1  # another view in another step
    flipped = {image.tobytes() for image in to_teacher[1]}
    assert 0 < sum(image in flipped for image in seen[0]) < 64


def test_a_run_with_a_teacher_of_the_same_view_resumes_as_if_unbroken(
    same_view: RunConfig, teacher: OnnxTeacher, small: FashionMnist, tmp_path: Path
) -> None:
    """The teacher's answers are in the run's folder, so that it is not asked again."""

    def interrupt(at: StepProgress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    def must_not_be_asked(images: Images) -> Logits:
        pytest.fail("the teacher was asked again")

    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    trainer.train(same_view, small, CheckpointKeptRun(unbroken), teacher=teacher)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(same_view, small, CheckpointKeptRun(broken), OnStep(interrupt), teacher)
    trainer.train(same_view, small, CheckpointKeptRun(broken), teacher=must_not_be_asked)
    assert_same_outcome(broken, unbroken)


@pytest.mark.parametrize("views", [0, 3])
def test_a_finished_run_keeps_no_answers_of_its_teacher(
    same_view: RunConfig, teacher: OnnxTeacher, small: FashionMnist, tmp_path: Path, views: int
) -> None:
    kept: list[bool] = []
    distillation = Distillation("cnn", weight=1.0, temperature=2.0, views=views)
    recipe = replace(same_view.recipe, epochs=1, schedule="one_cycle", distillation=distillation)
    run = Run(tmp_path)
    trainer.train(
        replace(same_view, recipe=recipe), small, run, OnStep(lambda at: kept.append(run.has("teacher.pt"))), teacher
    )
    assert all(kept)
    assert not run.has("teacher.pt")


def test_answers_for_other_images_are_refused(
    same_view: RunConfig, teacher: OnnxTeacher, small: FashionMnist, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    run.start(same_view)
    run.save("teacher.pt", {"logits": torch.zeros(64, 10)})
    with pytest.raises(RunMismatchError, match=r"teacher\.pt holds no logits of this run's images\. .*--restart"):
        trainer.train(same_view, small, run, teacher=teacher)


def test_a_teacher_of_the_same_view_that_fails_is_reported_before_the_first_step(
    same_view: RunConfig, small: FashionMnist, tmp_path: Path
) -> None:
    spoiled = OnnxTeacher(changed(tmp_path / "spoiled.onnx", spoil))
    started = OnStep(lambda at: pytest.fail("it trained"))
    with pytest.raises(TeacherError, match="logits that are not finite for 192 of 192 images"):
        trainer.train(same_view, small, Run(tmp_path / "run"), started, spoiled)
