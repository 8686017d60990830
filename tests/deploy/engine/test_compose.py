"""docker-compose.yml: it is valid with every profile, and what it starts is confined as it says."""

import json
import shlex
from collections.abc import Iterator
from itertools import chain

import pytest
import yaml

from tests.deploy.engine.stack import PROFILES, ROOT, Stack, docker, stack

# Memory, processes and CPU time, as the kernel holds the container to them: cgroup v2's files, or v1's.
LIMITS = """
from pathlib import Path
v1 = {"memory.max": "memory/memory.limit_in_bytes", "pids.max": "pids/pids.max", "cpu.max": "cpu/cpu.cfs_quota_us"}
for names in v1.items():
    found = [path for name in names if (path := Path("/sys/fs/cgroup") / name).exists()]
    print(found[0].read_text().split()[0])
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Stack]:
    """What `docker compose up` starts."""
    with stack("hangtag-test", "loadtest") as made:
        made.up("server")
        yield made


@pytest.mark.parametrize("profiles", [(), *((profile,) for profile in PROFILES), PROFILES], ids="+".join)
def test_every_profile_is_valid(profiles: tuple[str, ...]) -> None:
    chosen = chain.from_iterable(("--profile", profile) for profile in profiles)
    config = json.loads(
        docker("compose", "-f", str(ROOT / "docker-compose.yml"), *chosen, "config", "--format", "json")
    )
    assert "server" in config["services"]
    for name, service in config["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["deploy"]["resources"]["limits"]["pids"], name
        assert int(service["cpu_quota"]) > 0, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        if service["image"].startswith("hangtag:") and name != "loadtest":
            assert service["stop_grace_period"] == "30s", name


def test_it_is_confined(plain: Stack) -> None:
    def inside(code: str) -> str:
        return plain.compose("exec", "-T", "server", "python", "-c", code).strip()

    status = dict(line.split(":\t", 1) for line in inside("print(open('/proc/1/status').read())").splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert inside(LIMITS).split() == [str(2**30), "1024", "200000"]
    refused = "import pathlib\ntry: pathlib.Path('/opt/x').touch()\nexcept OSError as error: print(error.strerror)"
    assert inside(refused) == "Read-only file system"
    refused = refused.replace("/opt/x", "/models/x")
    assert inside(refused) == "Read-only file system"


def test_classify_from_another_container(plain: Stack) -> None:
    answer = plain.client("classify", "--server", "server:8001", "--json", "/garments/bag-1.png")
    assert json.loads(answer)["labels"][0]["name"] == "Bag"


def test_a_load_test_as_the_file_has_it(plain: Stack) -> None:
    """The service's own command, cut short; the report lands on its volume."""
    file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    plain.client(
        *shlex.split(file["services"]["loadtest"]["command"]),
        *("--concurrency", "4", "--min-duration", "1s", "--min-query-count", "64", "--blocks", "1"),
    )
    runs = plain.report("loadtest.json")["runs"]
    assert [run["model"] for run in runs] == ["lstm", "cnn"]
    assert all(set(run["total"]["statuses"]) == {"OK"} for run in runs)


def test_sigterm_ends_it_in_time_with_exit_code_0(plain: Stack) -> None:
    plain.compose("stop", "server")
    state = plain.container("server")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
