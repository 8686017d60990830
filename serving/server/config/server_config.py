"""What a server is started with. Each value is declared once: type, default, help and check; the command's options are
made from this declaration."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from hangtag.serving.server.config.option_types import FILE, MOST_SAMPLES, Seconds, model_limit, option
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.cpus import usable_cpus

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ServerConfig:
    """Raises StartError on construction when values do not fit together."""

    models: Path = field(
        default=Path("models"),
        metadata=option(click.Path(path_type=Path), "The model repository: <models>/<name>/<version>/model.onnx."),
    )
    model_control: str = field(
        default="none",
        metadata=option(
            click.Choice(["none", "poll", "explicit"]),
            "none: every model, as it lies there at the start. poll: what changes there is served. explicit: by call, "
            "with RepositoryModelLoad and RepositoryModelUnload.",
        ),
    )
    load_model: tuple[str, ...] = field(
        default=(),
        metadata=option(str, "With --model-control explicit: load this model at the start; '*' loads all. Repeatable."),
    )
    poll_seconds: float = field(
        default=15.0,
        metadata=option(Seconds(0.1), "With --model-control poll: how often the repository is looked at."),
    )
    num_versions: int = field(
        default=1,
        metadata=option(
            click.IntRange(min=0), "How many of a model's latest versions are served, each by its number. 0: all."
        ),
    )
    host: str = field(
        default="127.0.0.1",
        metadata=option(str, "The address to listen on. Beyond loopback, use TLS, and tokens or --tls-client-ca."),
    )
    port: int = field(
        default=8001,
        metadata=option(click.IntRange(0, 65535), "The gRPC port. 0 picks a free one, which the log names."),
    )
    metrics_port: int = field(
        default=8002,
        metadata=option(
            click.IntRange(-1, 65535),
            "The HTTP port of Prometheus' /metrics and of /v2/health/ready. 0 picks a free one, -1: none.",
        ),
    )
    otlp_endpoint: str = field(
        default="",
        metadata=option(
            str, "Send OpenTelemetry traces to this collector (OTLP over gRPC, http://HOST:4317). Needs the extra otel."
        ),
    )
    provider: str = field(
        default="auto",
        metadata=option(
            click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
            "ONNX Runtime's execution provider. auto: CUDA where it can be had, else CPU. cuda, tensorrt: an error "
            "without.",
        ),
    )
    gpu_device_id: int = field(default=0, metadata=option(click.IntRange(min=0), "Which GPU computes."))
    gpu_mem_limit_mib: int = field(
        default=0,
        metadata=option(
            click.IntRange(min=0),
            "The most GPU memory that a model's arena takes, weights included, in MiB. 0: no limit.",
        ),
    )
    cuda_graphs: str = field(
        default="off",
        metadata=option(
            click.Choice(["off", "auto", "on"]),
            "Compute batches by CUDA graphs, captured for a few batch sizes. on: where that can be. auto: and where it "
            "is measured to be faster.",
        ),
    )
    workers: int = field(
        default=1,
        metadata=option(
            click.IntRange(1, 256),
            "Processes that share the port. Clients need several connections to use them; worth it where Python's one "
            "interpreter lock is the limit, not the computing.",
        ),
    )
    instances: int = field(
        default=0,
        metadata=option(
            click.IntRange(0, 64),
            "How many batches of one model may be computed at once. 0: two where there are two CPUs, else one.",
        ),
    )
    intra_op_threads: int = field(
        default=0,
        metadata=option(
            click.IntRange(0, 256),
            "ONNX Runtime's threads per instance. 0: the usable CPUs / (instances x workers), and all of a worker's "
            "for a batch that is computed alone, where that is measured to be faster.",
        ),
    )
    max_batch_size: int = field(
        default=64,
        metadata=option(click.IntRange(1, MOST_SAMPLES), "The most samples computed together, and in one request."),
    )
    model_max_batch_size: tuple[tuple[str, int], ...] = field(
        default=(),
        metadata=option(
            model_limit,
            "The same for one model, whatever its file says; 0: its requests are never joined. May be repeated.",
            metavar="NAME=N",
        ),
    )
    max_queue_size: int = field(
        default=256,
        metadata=option(
            click.IntRange(1, 4096), "The most requests waiting per model; one more gets RESOURCE_EXHAUSTED at once."
        ),
    )
    max_queue_delay_microseconds: int = field(
        default=0,
        metadata=option(
            click.IntRange(0, 10_000_000),
            "How long the oldest waiting request may be held back to fill a batch. 0: never held back.",
        ),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=option(
            FILE, "Serve TLS with this certificate (PEM, with its chain). Read again when it changes. Needs --tls-key."
        ),
    )
    tls_key: Path | None = field(
        default=None, metadata=option(FILE, "The key of --tls-cert (PEM, not encrypted). Read again when it changes.")
    )
    tls_client_ca: Path | None = field(
        default=None,
        metadata=option(FILE, "Ask every caller for a certificate that these authorities (PEM) signed: mutual TLS."),
    )
    token_file: Path | None = field(
        default=None,
        metadata=option(
            FILE,
            "Ask every call but health's for a bearer token of this file, one a line. Read again when it changes.",
        ),
    )
    max_message_mib: int = field(
        default=16, metadata=option(click.IntRange(1, 1024), "The largest message taken or sent, in MiB.")
    )
    max_concurrent_streams: int = field(
        default=100,
        metadata=option(
            click.IntRange(1, 100_000),
            "How many calls a connection may have in flight; those beyond wait in the client, under its own deadline.",
        ),
    )
    max_connections: int = field(
        default=1024, metadata=option(click.IntRange(1, 1_000_000), "The most open connections; one more is closed.")
    )
    connection_idle_seconds: float = field(
        default=900.0, metadata=option(Seconds(1), "Close a connection without calls after so long.")
    )
    connection_age_seconds: float = field(
        default=0.0,
        metadata=option(
            click.FloatRange(min=0),
            "Have clients connect anew after so long, so that those that balance by themselves find replicas that came "
            "since; streams that last 20 s longer are cut. 0: never.",
        ),
    )
    keepalive_seconds: float = field(
        default=60.0,
        metadata=option(Seconds(1), "Ask a silent client whether it is there; no answer in 20 s ends it."),
    )
    min_ping_seconds: float = field(
        default=10.0,
        metadata=option(Seconds(0), "Send away clients that ping more often than this."),
    )
    hot_path: str = field(
        default="auto",
        metadata=option(
            click.Choice(["auto", "on", "off"]),
            "Serve ModelInfer straight from gRPC's completion queue, several times as fast. auto: if grpcio's version "
            "was tried and a self-test passes, else by grpcio's public API, which the log says. on: an error if not.",
        ),
    )
    drain_seconds: float = field(
        default=20.0,
        metadata=option(Seconds(0), "On SIGTERM, how long calls in flight may take to finish."),
    )

    @property
    def instance_count(self) -> int:
        """``instances``, or for 0 what suits this machine: one computes while the other gathers the next batch."""
        return self.instances or min(2, usable_cpus())

    @property
    def largest_batch_size(self) -> int:
        """The most samples of any model computed together."""
        return max([self.max_batch_size, *(limit for _, limit in self.model_max_batch_size)])

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
        if self.max_queue_size < self.largest_batch_size:
            raise StartError(
                f"max_queue_size ({self.max_queue_size}) is below max_batch_size ({self.largest_batch_size}): a full "
                "batch could never gather. Raise the one or lower the other."
            )
        if self.load_model and self.model_control != "explicit":
            raise StartError("--load-model goes with --model-control explicit; otherwise every model is loaded")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartError("TLS needs a certificate and its key: give --tls-cert and --tls-key together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")

    @property
    def dangers(self) -> tuple[str, ...]:
        """What whoever reaches the port could do, where it can be reached from other machines."""
        if _is_loopback(self.host):
            return ()
        everybody = () if self.token_file or self.tls_client_ca else ("anybody may call (set --token-file)",)
        readable = () if self.tls_cert else ("all can be read on the way (set --tls-cert and --tls-key)",)
        return everybody + readable


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_options(command: F) -> F:
    """Give a click command one option per field of ServerConfig; it receives them as keyword arguments."""
    for declared in reversed(fields(ServerConfig)):
        declare = click.option(
            f"--{declared.name.replace('_', '-')}",
            default=declared.default,
            multiple=isinstance(declared.default, tuple),
            show_default=True,
            show_envvar=True,
            **declared.metadata,
        )
        command = declare(command)
    return command
