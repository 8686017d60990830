"""What a server is started with. Each value is declared once: type, default, help and check; the command's options are
made from this declaration."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from serving.server.errors import StartError

F = TypeVar("F", bound=Callable[..., Any])

_MOST_SAMPLES = 4096


def _option(type_: Any, help_: str, **more: Any) -> dict[str, Any]:
    """An option's arguments for click; ``more`` are those that few options have."""
    return {"type": type_, "help": help_, **more}


def _model_limit(value: str) -> tuple[str, int]:
    """NAME=N: a model's name and the most samples computed together."""
    name, _, limit = value.rpartition("=")
    if not (name and limit.isascii() and limit.isdigit() and int(limit) <= _MOST_SAMPLES):
        raise click.BadParameter(f"{value!r} is not a model's name, '=' and a number from 0 to {_MOST_SAMPLES}")
    return name, int(limit)


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
        default=1, metadata=_option(click.IntRange(1, 64), "How many batches of one model may be computed at once.")
    )
    intra_op_threads: int = field(
        default=0,
        metadata=_option(
            click.IntRange(0, 256), "ONNX Runtime's threads per instance. 0: the CPUs this process may use / instances."
        ),
    )
    max_batch_size: int = field(
        default=64,
        metadata=_option(click.IntRange(1, _MOST_SAMPLES), "The most samples computed together, and in one request."),
    )
    model_max_batch_size: tuple[tuple[str, int], ...] = field(
        default=(),
        metadata=_option(
            _model_limit,
            "The same for one model, whatever its file says; 0: its requests are never joined. May be repeated.",
            multiple=True,
            metavar="NAME=N",
        ),
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
    max_message_mib: int = field(
        default=16, metadata=_option(click.IntRange(1, 1024), "The largest message taken or sent, in MiB.")
    )
    drain_seconds: float = field(
        default=20.0,
        metadata=_option(click.FloatRange(min=0), "On SIGTERM, how long calls in flight may take to finish."),
    )

    def max_batch_size_of(self, model: str) -> int:
        """The most samples of a model computed together, where they may be at all."""
        return dict(self.model_max_batch_size).get(model) or self.max_batch_size

    def batching_override(self, model: str) -> bool | None:
        """Whether the operator lets a model's requests be joined; None where nothing is said of this model."""
        limit = dict(self.model_max_batch_size).get(model)
        return None if limit is None else limit > 0

    def address(self, port: int) -> str:
        """host:port, with the brackets that an IPv6 host needs."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def __post_init__(self) -> None:
        largest = max([self.max_batch_size, *(limit for _, limit in self.model_max_batch_size)])
        if self.max_queue_size < largest:
            raise StartError(
                f"max_queue_size ({self.max_queue_size}) is below max_batch_size ({largest}): a full batch "
                "could never gather. Raise the one or lower the other."
            )


def server_options(command: F) -> F:
    """Give a click command one option per field of ServerConfig; it receives them as keyword arguments."""
    for declared in reversed(fields(ServerConfig)):
        option = click.option(
            f"--{declared.name.replace('_', '-')}",
            default=declared.default,
            show_default=True,
            show_envvar=True,
            **declared.metadata,
        )
        command = option(command)
    return command
