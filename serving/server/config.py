"""What a server is started with. Each value is declared once: type, default, help and check; the command's options are
made from this declaration."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from serving.server.cpus import usable_cpus
from serving.server.errors import StartError

F = TypeVar("F", bound=Callable[..., Any])


def _option(type_: Any, help_: str) -> dict[str, Any]:
    return {"type": type_, "help": help_}


@dataclass(frozen=True)
class ServerConfig:
    """Raises StartError on construction when values do not fit together."""

    models: Path = field(
        default=Path("models"),
        metadata=_option(click.Path(path_type=Path), "The model repository: <models>/<name>/<version>/model.onnx."),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=_option(str, "The address to listen on. Beyond loopback anyone who reaches it may call."),
    )
    port: int = field(
        default=8001,
        metadata=_option(click.IntRange(0, 65535), "The gRPC port. 0 picks a free one, which the log names."),
    )
    provider: str = field(
        default="auto",
        metadata=_option(
            click.Choice(["auto", "cpu", "cuda"]),
            "ONNX Runtime's execution provider. auto: CUDA where it can be had, else CPU. cuda: an error without.",
        ),
    )
    instances: int = field(
        default=0,
        metadata=_option(
            click.IntRange(0, 64),
            "How many batches of one model may be computed at once. 0: two where there are two CPUs, else one.",
        ),
    )
    intra_op_threads: int = field(
        default=0,
        metadata=_option(
            click.IntRange(0, 256),
            "ONNX Runtime's threads per instance. 0: the CPUs this process may use / instances, and all of them for a "
            "batch that is computed alone, where that is measured to be faster.",
        ),
    )
    max_batch_size: int = field(
        default=64, metadata=_option(click.IntRange(1, 4096), "The most samples computed together, and in one request.")
    )
    max_queue_size: int = field(
        default=256,
        metadata=_option(
            click.IntRange(1, 4096), "The most requests waiting per model; one more gets RESOURCE_EXHAUSTED at once."
        ),
    )
    max_queue_delay_microseconds: int = field(
        default=0,
        metadata=_option(
            click.IntRange(0, 10_000_000),
            "How long the oldest waiting request may be held back to fill a batch. 0: never held back.",
        ),
    )
    max_concurrent_streams: int = field(
        default=100,
        metadata=_option(
            click.IntRange(1, 100_000),
            "How many calls a connection may have in flight; those beyond wait in the client, under its own deadline.",
        ),
    )
    max_message_mib: int = field(
        default=16, metadata=_option(click.IntRange(1, 1024), "The largest message taken or sent, in MiB.")
    )
    hot_path: str = field(
        default="auto",
        metadata=_option(
            click.Choice(["auto", "on", "off"]),
            "Serve ModelInfer straight from gRPC's completion queue, several times as fast. auto: if grpcio's version "
            "was tried and a self-test passes, else by grpcio's public API, which the log says. on: an error if not.",
        ),
    )
    drain_seconds: float = field(
        default=20.0,
        metadata=_option(click.FloatRange(min=0), "On SIGTERM, how long calls in flight may take to finish."),
    )

    @property
    def instance_count(self) -> int:
        """``instances``, or for 0 what suits this machine: one computes while the other gathers the next batch."""
        return self.instances or min(2, usable_cpus())

    def address(self, port: int) -> str:
        """host:port, with the brackets that an IPv6 host needs."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def __post_init__(self) -> None:
        if self.max_queue_size < self.max_batch_size:
            raise StartError(
                f"max_queue_size ({self.max_queue_size}) is below max_batch_size ({self.max_batch_size}): a full batch "
                "could never gather. Raise the one or lower the other."
            )


def server_options(command: F) -> F:
    """Give a click command one option per field of ServerConfig; it receives them as keyword arguments."""
    for declared in reversed(fields(ServerConfig)):
        option = click.option(
            f"--{declared.name.replace('_', '-')}",
            type=declared.metadata["type"],
            default=declared.default,
            show_default=True,
            show_envvar=True,
            help=declared.metadata["help"],
        )
        command = option(command)
    return command
