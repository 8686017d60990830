"""The servers that are compared, by name, and how each is started."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from hangtag.serving.model_repository import serving_versions
from studies.server.peers.earlier import earlier, worktree
from studies.server.peers.minimal import minimal
from studies.server.peers.tls import with_tls
from studies.server.peers.triton import triton
from studies.server.process import Launch, hangtag_serve

EARLIER = "6c9f32cf1501abfaaf79fbdd071b44f82a5f51c9"
"""The last commit whose server had the hot path: grpcio's completion queue, driven directly."""

SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "native": "hangtag serve --transport native",
        "grpc": "hangtag serve --transport grpc",
        "tls": "hangtag serve --transport grpc, with TLS",
        "hot": "the earlier server, --hot-path on",
        "ordinary": "the earlier server, --hot-path off",
        "triton": "Triton with its Python backend, two instances of each model",
        "minimal": "the least that a Python server on pygrpc-native can do: no deadlines, no checks, no costs",
        "bare": "ONNX Runtime alone, without a server",
    }
)


NETWORKS = ("lstm", "lstm2", "cnn")
"""The models of the servers: the goals of memory and of the start are for three, and earlier servers know no routes."""


def launches(names: Iterable[str], models: Path, commit: str, stack: ExitStack) -> dict[str, Launch]:
    """How to start each of these servers; what that needs lasts until `stack` ends. Leaves out `bare`.

    Raises:
        click.ClickException: one of them cannot be had on this machine.
    """
    by_name: dict[str, Launch] = {}
    folder: Path | None = None
    for name in names:
        if name in ("hot", "ordinary"):
            folder = folder or stack.enter_context(worktree(commit))
            by_name[name] = earlier(folder, models, "--hot-path", "on" if name == "hot" else "off")
        elif name == "tls":
            by_name[name] = stack.enter_context(with_tls(models))
        elif name == "triton":
            by_name[name] = stack.enter_context(triton(models))
        elif name == "minimal":
            by_name[name] = minimal(models)
        elif name != "bare":
            by_name[name] = hangtag_serve(models, "--transport", name)
    return by_name


@contextmanager
def networks(models: Path) -> Iterator[Path]:
    """A copy of a model repository with the versions of NETWORKS that serve, and nothing else."""
    with TemporaryDirectory() as name:
        for file in serving_versions(models):
            if file.name in NETWORKS:
                shutil.copytree(file.path.parent, Path(name, file.name, str(file.version)))
        yield Path(name)
