import re
from pathlib import Path

from hangtag.serving.loadtest.machine import environment


def test_the_environment_names_processor_and_versions() -> None:
    described = environment.describe()
    assert described["CPU"]
    assert re.fullmatch(r"\d+ of \d+", described["CPUs usable"])
    assert described["grpcio"][0].isdigit()


def test_an_environment_without_cpuinfo_or_distribution_is_still_described(tmp_path: Path) -> None:
    assert environment.cpu_model(tmp_path / "missing")
    assert environment._version("no-such-distribution") == "not installed as a distribution"
