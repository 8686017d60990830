"""Start Triton with its Python backend, from the wheel nvidia-pytriton, with the models that hangtag serves.

As Triton's documentation recommends for such models, each model has two instances with one-thread sessions, and dynamic
batching without a delay. Triton's answers have only logits, and hangtag's answers also have probabilities.
"""

import shutil
import socket
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from hangtag.serving.model_repository import serving_versions
from studies.bench.process import Launch
from studies.page import ROOT

ENVIRONMENT = ROOT / ".venv-triton"
CONFIG = """backend: "python"
max_batch_size: 64
input { name: "image" data_type: TYPE_UINT8 dims: [28, 28] }
output { name: "logits" data_type: TYPE_FP32 dims: [10] }
instance_group { kind: KIND_CPU count: 2 }
dynamic_batching { }
"""


@contextmanager
def triton(models: Path, environment: Path = ENVIRONMENT) -> Iterator[Launch]:
    """Yield the command that starts Triton. The context writes a model repository for Triton, and later removes it.

    Args:
        models: hangtag's model repository, of which Triton serves the latest version of each model.
        environment: A virtual environment with nvidia-pytriton and onnxruntime.

    Raises:
        click.ClickException: the environment is missing or has no Triton.
    """
    packages = _packages(environment.resolve())
    server = packages / "pytriton/tritonserver"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_repository(models, folder / "models")
        _write_backend(server, folder / "backends/python", _python_version(packages))
        grpc_port, http_port, metrics_port = free_ports(3)
        command = (
            server / "bin/tritonserver",
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={folder / 'backends'}",
            f"--grpc-port={grpc_port}",
            f"--http-port={http_port}",
            f"--metrics-port={metrics_port}",
            "--grpc-address=127.0.0.1",
            "--http-address=127.0.0.1",
            "--allow-gpu-metrics=false",
        )
        libraries = f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}"
        variables: dict[str, str | Path] = {"PYTHONPATH": packages, "LD_LIBRARY_PATH": libraries}
        # Triton begins to listen when its models are loaded.
        yield Launch(command, r"Started GRPCInferenceService at ([\d.:]+)", variables, http=f"127.0.0.1:{http_port}")


def _packages(environment: Path) -> Path:
    """Return the folder site-packages of a virtual environment."""
    for packages in environment.glob("lib/python3.*/site-packages"):
        if (packages / "pytriton/tritonserver/bin/tritonserver").exists():
            return packages
    raise click.ClickException(
        f"Triton is missing: {environment} has no package nvidia-pytriton. Run 'make triton', which installs it "
        "(Linux on x86-64, 450 MB), or leave Triton out."
    )


def _python_version(packages: Path) -> str:
    return packages.parent.name.removeprefix("python")


def _write_repository(models: Path, folder: Path) -> None:
    for file in serving_versions(models):
        version = folder / file.name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(f'name: "{file.name}"\n{CONFIG}')
        shutil.copyfile(file.path, version / "model.onnx")
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")


def _write_backend(server: Path, folder: Path, python: str) -> None:
    """Write Triton's Python backend, and the program that runs the backend's models in this version of Python."""
    shutil.copytree(server / "backends/python", folder)
    shutil.copy2(server / "python_backend_stubs" / python / "triton_python_backend_stub", folder)


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago, because Triton cannot choose free ports itself."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
