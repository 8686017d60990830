"""docker-bake.hcl builds every image of the Dockerfile for both architectures, as buildx reads it. Nothing is built."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan() -> dict[str, dict[str, object]]:
    command = ["docker", "buildx", "bake", "--file", "deploy/docker-bake.hcl", "--print"]
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "REGISTRY": "example/hangtag",
        "VERSION": "9",
    }
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if "is not a docker command" in done.stderr or "unknown command" in done.stderr:
        pytest.skip("docker has no buildx")
    assert done.returncode == 0, done.stderr
    targets: dict[str, dict[str, object]] = json.loads(done.stdout)["target"]
    return targets


def test_every_image_is_built_for_both_architectures(plan: dict[str, dict[str, object]]) -> None:
    assert plan.keys() == {"cpu", "client", "gpu"}
    stages = set(re.findall(r"^FROM .* AS (\S+)", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE))
    for name, target in plan.items():
        assert target["platforms"] == ["linux/amd64", "linux/arm64"]
        assert target["target"] == name
        assert name in stages
        assert target["tags"] == [f"example/hangtag:9-{name}", f"example/hangtag:{name}"]
