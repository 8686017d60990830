"""Measures which of the processor's instructions ONNX Runtime computes with, by `perf` and `objdump`.

`perf` samples the processor's place in ONNX Runtime's library while batches are computed. A sample counts for the
instruction of KINDS that is closest to it in the library, if one is within REACH bytes: an inner loop has little else.
"""

import bisect
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from hangtag.export.gate import speed
from hangtag.export.repository import inventory
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from studies import options, results
from studies.exported.profile import prepared

RESULTS = Path(__file__).with_name("instructions.jsonl")
LIBRARY = Path(onnxruntime_pybind11_state.__file__).resolve()
"""ONNX Runtime with its kernels."""
MODELS = ("cnn", "cnn-int8", "lstm", "lstm-int8", "lstm2", "lstm2-int8")
BATCH_SIZES = (1, 64)
KINDS: Mapping[str, str] = {
    "AMX int8": r"tdpb[us][us]d",
    "VNNI": r"vpdp[bw]\w+",
    "8-bit products in 16 bits": r"v?pmaddubsw",
    "ARM dot products": r"[us]dot|[us]mmla",
    "FP32": r"vfn?m(?:add|sub)\d+ps|fmla",
}
"""Kinds of multiplications, and the regular expressions of their mnemonics."""
OTHER = "none of these near"
REACH = 256
_SAMPLES_PER_SECOND = 997  # a prime, so that sampling does not keep step with anything periodic
_INSTRUCTION = re.compile(
    r"^\s*([0-9a-f]+):\s+(?:\{\w+\}\s+)?(?:" + "|".join(f"({mnemonic})" for mnemonic in KINDS.values()) + r")\s"
)


@click.command()
@options.MODELS
@click.option("--seconds", type=click.FloatRange(0.1), default=5, show_default=True, help="Of each model and batch.")
@options.OUT
def main(models: Path, seconds: float, out: Path | None) -> None:
    """Sample which instructions compute the models in FP32 and int8, on one thread, and record their shares.

    Needs perf (Debian: linux-perf) with the right to use it on one's own processes, and objdump (binutils).
    """
    for program, package in (("perf", "linux-perf"), ("objdump", "binutils")):
        if shutil.which(program) is None:
            raise click.ClickException(f"{program} is missing; Debian and Ubuntu have it in the package {package}.")
    click.echo(f"disassembling {LIBRARY.name}")
    matrix_instructions = MatrixInstructions.of(LIBRARY)
    command = f"python -m studies exported instructions{options.given()}"
    conditions = results.conditions(command, {"ONNX Runtime": ONNXRUNTIME_VERSION})
    lines = [conditions | {"instructions": speed.instructions()}]
    files = {entry.name: entry.path for entry in inventory.serving(models)}
    for name in (name for name in MODELS if name in files):
        for batch_size in BATCH_SIZES:
            shares = matrix_instructions.shares(sample(files[name], batch_size, seconds))
            click.echo(f"{name}, batch {batch_size}: {', '.join(f'{kind} {x:.0%}' for kind, x in shares.items())}")
            lines.append({"run": f"{name} {batch_size}", "shares": shares})
    options.write(out, RESULTS, lines, complete=not options.given())


class MatrixInstructions:
    """Where a library's matrix instructions are.

    Args:
        disassembly: The lines that `objdump --disassemble` writes.
        offset: What must be added to an offset in the library's file for the address that objdump writes.
    """

    def __init__(self, disassembly: Iterable[str], offset: int) -> None:
        self._places: list[int] = []
        self._kinds: list[str] = []
        self._offset = offset
        for line in disassembly:
            if match := _INSTRUCTION.match(line):
                (kind,) = (kind for kind, mnemonic in zip(KINDS, match.groups()[1:], strict=True) if mnemonic)
                self._places.append(int(match[1], 16))
                self._kinds.append(kind)

    @classmethod
    def of(cls, library: Path) -> "MatrixInstructions":
        """Those of a library's file, by objdump. Raises click.ClickException where objdump finds no code in it."""
        headers = subprocess.run(("objdump", "--section-headers", library), capture_output=True, text=True)
        section = re.search(r"\.text\s+[0-9a-f]+\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)", headers.stdout)
        if section is None:
            raise click.ClickException(f"objdump finds no code in {library}: {headers.stderr.strip()}")
        command = ("objdump", "--disassemble", "--section=.text", "--no-show-raw-insn", str(library))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            return cls(process.stdout, int(section[1], 16) - int(section[2], 16))

    def shares(self, samples: Sequence[int]) -> dict[str, float]:
        """The share of each kind in samples, which are offsets in the library's file; the largest first."""
        counts = Counter(map(self._closest, samples))
        return {kind: count / len(samples) for kind, count in counts.most_common()}

    def _closest(self, sample: int) -> str:
        address = sample + self._offset
        following = bisect.bisect(self._places, address)
        near = range(max(following - 1, 0), min(following + 1, len(self._places)))
        distance, closest = min(((abs(self._places[index] - address), index) for index in near), default=(REACH, 0))
        return self._kinds[closest] if distance < REACH else OTHER


def sample(file: Path, batch_size: int, seconds: float) -> list[int]:
    """The places in ONNX Runtime's library where the processor was, as offsets in its file.

    Args:
        file: An ONNX file with one input, UINT8 [batch, height, width].
        batch_size: Images of random pixels in a batch; one batch after the other is computed, on one thread.
        seconds: How long.

    Raises:
        click.ClickException: perf could not record.
    """
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session, batch = prepared(file, batch_size, session_options)
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "perf.data"))
        command = ("perf", "record", "--event", "cpu-clock:u", "--freq", str(_SAMPLES_PER_SECOND), "--pid")
        recording = subprocess.Popen((*command, str(os.getpid()), "--output", data), stderr=subprocess.PIPE)
        end = time.perf_counter() + 0.5 + seconds  # perf needs the half second to attach, and does not say when it has
        while time.perf_counter() < end:
            session.run(None, batch)
        recording.terminate()
        _, problem = recording.communicate()
        script = ("perf", "script", "--input", data, "--fields", "ip")
        listed = subprocess.run(script, capture_output=True, text=True)
    addresses = [int(word, 16) for word in listed.stdout.split()]
    if not addresses:
        raise click.ClickException(f"perf recorded nothing:\n{problem.decode()}{listed.stderr}")
    return list(_offsets(addresses))


def _offsets(addresses: Iterable[int]) -> Iterator[int]:
    """Those of this process's addresses that are in LIBRARY, as offsets in its file."""
    mapped = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split(maxsplit=5)
        if path == [str(LIBRARY)]:
            start, end = (int(address, 16) for address in span.split("-"))
            mapped.append((range(start, end), int(offset, 16)))
    for address in addresses:
        for addresses_of_part, offset_of_part in mapped:
            if address in addresses_of_part:
                yield address - addresses_of_part.start + offset_of_part
