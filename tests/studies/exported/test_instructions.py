"""The share of each kind of matrix instruction, on what `objdump` prints, and measured."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hangtag.export.gate import processor
from studies import results
from studies.exported import instructions, report
from studies.exported.instructions import OTHER, MatrixInstructions
from tests.kit.shipped import latest

DISASSEMBLY = """
   11000:\tmov    %rdi,%rax
   11003:\ttdpbusd %tmm4,%tmm6,%tmm0
   12000:\tvpdpbusd (%rcx),%zmm1,%zmm4
   12010:\t{vex} vpdpbusd (%rcx),%ymm1,%ymm4
   13000:\tvpmaddubsw %ymm1,%ymm2,%ymm3
   14000:\tvfmadd231ps %zmm1,%zmm2,%zmm3
   14010:\tcall   11003 <tdpbusd>
"""


def test_a_sample_counts_for_the_closest_matrix_instruction_within_reach() -> None:
    found = MatrixInstructions(DISASSEMBLY.splitlines(), offset=0x1000)
    places = {
        0x10000: "AMX int8",
        0x10F10: "VNNI",  # 240 bytes before
        0x11020: "VNNI",
        0x120FF: "8-bit products in 16 bits",
        0x13010: "FP32",
        0x13110: OTHER,
        0x100: OTHER,
    }
    for place, kind in places.items():
        assert found.shares([place]) == {kind: 1}, hex(place)
    shares = {"VNNI": 2 / 7, OTHER: 2 / 7, "AMX int8": 1 / 7, "8-bit products in 16 bits": 1 / 7, "FP32": 1 / 7}
    assert found.shares(list(places)) == shares


def test_a_library_without_matrix_instructions_has_none() -> None:
    assert MatrixInstructions([], offset=0).shares([1, 2]) == {OTHER: 1}


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(instructions.main, [])
    assert result.exit_code == 1
    assert "perf is missing; Debian and Ubuntu have it in the package linux-perf." in result.output


@pytest.mark.slow
def test_perf_that_cannot_record_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perf = tmp_path / "perf"
    perf.write_text("#!/bin/sh\necho no right to record >&2\nexit 1\n")
    perf.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Exception, match="perf recorded nothing:\nno right to record"):
        instructions.sample(latest("lstm"), batch_size=1, seconds=0.1)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("perf") and shutil.which("objdump")), reason="needs Debian's packages linux-perf and binutils"
)
def test_it_finds_the_instructions_of_this_processor_and_the_page_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "MODELS", ("cnn", "cnn-int8"))
    monkeypatch.setattr(instructions, "BATCH_SIZES", (64,))
    out = tmp_path / "instructions.jsonl"
    result = CliRunner().invoke(instructions.main, ["--seconds", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert max(lines["cnn 64"]["shares"].items(), key=lambda item: item[1])[0] == "FP32"
    if {"AVX-512 VNNI", "AVX-VNNI"} & set(processor.instructions()):
        shares = lines["cnn-int8 64"]["shares"]
        assert shares.get("AMX int8", 0) + shares.get("VNNI", 0) > shares.get("FP32", 0)
    assert "| `cnn-int8` | 64 | " in report.instructions_part(out)
