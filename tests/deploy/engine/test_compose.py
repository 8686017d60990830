"""docker-compose.yml is valid with every profile, and its containers get the declared limits, privileges and TLS."""

import json
import shlex
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import yaml

from tests.deploy.engine.stack import PROFILES, ROOT, Stack, docker, stack

# A script that prints the cgroup's limits of memory, processes and CPU time.
LIMITS = """
from pathlib import Path
v1 = {"memory.max": "memory/memory.limit_in_bytes", "pids.max": "pids/pids.max", "cpu.max": "cpu/cpu.cfs_quota_us"}
for names in v1.items():
    files = [path for name in names if (path := Path("/sys/fs/cgroup") / name).exists()]
    print(files[0].read_text().split()[0])
"""


@pytest.fixture(scope="module")
def default_stack() -> Iterator[Stack]:
    """The services that `docker compose up` starts by default."""
    with stack("hangtag-test", "loadtest") as default_stack:
        default_stack.up("server")
        yield default_stack


@pytest.mark.parametrize("profiles", [(), *((profile,) for profile in PROFILES), PROFILES], ids="+".join)
def test_every_profile_is_valid(profiles: tuple[str, ...]) -> None:
    options = chain.from_iterable(("--profile", profile) for profile in profiles)
    assert "server" in docker("compose", "-f", str(ROOT / "docker-compose.yml"), *options, "config", "--services")


def test_the_server_runs_with_limits_and_without_rights(default_stack: Stack) -> None:
    def run_inside(code: str) -> str:
        return default_stack.compose("exec", "-T", "server", "python", "-c", code).strip()

    status = dict(line.split(":\t", 1) for line in run_inside("print(open('/proc/1/status').read())").splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert run_inside(LIMITS).split() == [str(2**30), "1024", "200000"]
    for folder in ("/opt", "/models"):
        write = f"try: open('{folder}/x', 'w')\nexcept OSError as error: print(error.strerror)"
        assert run_inside(write) == "Read-only file system"


def test_the_published_http_port_classifies(default_stack: Stack) -> None:
    url = f"http://{default_stack.address('server', 8000)}/v1/classify/lstm"
    with urllib.request.urlopen(url, (ROOT / "examples/garments/bag-1.png").read_bytes(), timeout=10) as response:
        assert json.load(response)["labels"][0]["label"] == "Bag"


def test_the_load_test_of_the_compose_file(default_stack: Stack) -> None:
    """The load test's command is that of docker-compose.yml, with options for a shorter run."""
    file = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    default_stack.client(
        *shlex.split(file["services"]["loadtest"]["command"]),
        *("--concurrency", "4", "--min-duration", "1s", "--min-query-count", "64", "--blocks", "1"),
    )
    runs = default_stack.report("loadtest.json")["runs"]
    assert [run["model"] for run in runs] == ["lstm", "cnn"]
    assert all(set(run["total"]["statuses"]) == {"OK"} for run in runs)


def test_sigterm_stops_the_server_in_time_with_exit_code_0(default_stack: Stack) -> None:
    default_stack.compose("stop", "server")
    state = default_stack.container("server")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


MOUNT = "/secrets"
TRUST = ("--tls-ca", f"{MOUNT}/ca.crt")
TOKEN = ("--token-file", f"{MOUNT}/tokens")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "secrets"
    subprocess.run([ROOT / "deploy/certificates.sh", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def secured(secrets: Path) -> Iterator[Stack]:
    with stack("hangtag-test-tls", "tls", "loadtest", env={"HANGTAG_TLS_DIR": str(secrets)}) as secured:
        secured.up("server-tls")
        yield secured


def call(secured: Stack, secrets: Path, *options: str) -> str:
    command = (
        "classify",
        "--model=cnn",
        "--server=server-tls:8001",
        "--json",
        "/garments/bag-1.png",
        "--timeout=10",
        *options,
    )
    # The files are mounted one by one, because only the owner of their folder may enter the folder.
    mounts = tuple(f"--volume={secrets}/{name}:{MOUNT}/{name}:ro" for name in ("ca.crt", "tokens"))
    return secured.client(*command, options=mounts)


def test_a_call_with_tls_and_token_is_answered(secured: Stack, secrets: Path) -> None:
    assert json.loads(call(secured, secrets, *TRUST, *TOKEN))["labels"][0]["name"] == "Bag"


def test_a_call_without_a_token_is_refused(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="token"):
        call(secured, secrets, *TRUST)


def test_a_call_without_tls_fails(secured: Stack, secrets: Path) -> None:
    with pytest.raises(AssertionError, match="exit code 1"):
        call(secured, secrets, *TOKEN)


def test_https_is_served_to_a_caller_with_a_token(secured: Stack, secrets: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
    url = f"https://localhost:{secured.address('server-tls', 8000).rpartition(':')[2]}/v2/models/lstm"
    token = (secrets / "tokens").read_text().split()[0]
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=trusted, timeout=10) as response:
        assert json.load(response)["name"] == "lstm"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, context=trusted, timeout=10)
