"""Settings of one model, in <models>/<name>/serving.toml, which take precedence over the server's."""

import grpc
import pytest

from hangtag import ClientError
from hangtag.serving.server.errors import StartError
from tests.kit.repository import Repository
from tests.serving.server.engine.running import Start
from tests.serving.server.engine.scripted import Held


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_size 2", "cannot be read as TOML"),
        ("batch = 2", "unknown setting 'batch'"),
        ("port = 2", "unknown setting 'port'"),
        ("require_proof = false", "unknown setting 'require_proof'"),
        ("max_batch_size = 1.5", "max_batch_size: 1.5 "),
        ("max_batch_size = '2'", "max_batch_size: '2' "),
        ("instances = true", "instances: True "),
        ("provider = 'tpu'", "provider: 'tpu' "),
        ("max_batch_size = 101", "--max-queue-size (100) is below --max-batch-size (101)"),
    ],
)
def test_an_invalid_setting_is_an_error_that_names_the_file(
    repository: Repository, start: Start, text: str, expected: str
) -> None:
    file = repository.settings("one", text)
    with pytest.raises(StartError) as error:
        start(max_queue_size=100)
    assert str(file) in str(error.value)
    assert expected in str(error.value)


def test_each_model_has_its_own_settings_and_otherwise_the_servers(repository: Repository, start: Start) -> None:
    repository.settings(
        "one", "max_batch_size = 2\ninstances = 3 # of this model\nmax_queue_size = 5\nprovider = 'cpu'"
    )
    running = start(max_batch_size=4, max_queue_size=100, instances=1)
    one, two = (running.state(name) for name in ("one", "two"))
    assert (one.instances, one.max_queue_size, one.requested_provider) == (3, 5, "cpu")
    assert (two.instances, two.max_queue_size, two.requested_provider) == (1, 100, "auto")
    for name, most in (("one", 2), ("two", 4)):
        assert len(running.infer(name, [0] * most)["y"]) == most
        with pytest.raises(ClientError, match=f"takes at most {most}") as error:
            running.infer(name, [0] * (most + 1))
        assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_as_many_batches_of_a_model_as_its_own_instances_are_computed_at_once(
    repository: Repository, start: Start
) -> None:
    repository.settings("one", "instances = 4\nmax_batch_size = 1")
    held = Held(0)
    running = start(instances=1)
    running.scripts.play(one=held)
    calls = [running.infer_later("one") for _ in range(4)]
    for _ in calls:
        held.wait()
    held.release()
    assert [len(call.result()["y"]) for call in calls] == [1] * 4
