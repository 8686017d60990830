"""The settings that a server starts with. Each is declared once, with its type, default, help text and check."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from hangtag.serving.server.config.checks import (
    MOST_SAMPLES,
    Choice,
    FilePath,
    ModelLimit,
    SecondsRange,
    Switch,
    Text,
    WholeNumber,
)
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.setting import setting, validate
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.host.ports import address_of

OFF = -1
"""The number of a port that turns off what it is for."""
_LARGEST_BODIES = 16


@dataclass(frozen=True)
class ServerConfig:
    """The settings of one server; the help text of each setting says what it is for.

    Raises:
        StartError: A value is not what its setting takes, or two values do not fit together.

    Example:
        ServerConfig(models=Path("models"), port=0, max_batch_size=32)
    """

    models: Path = setting(
        Path("models"), FilePath(folder=True), "The model repository: <models>/<name>/<version>/model.onnx."
    )
    model_control: str = setting(
        "none",
        Choice(("none", "poll", "explicit")),
        "none: serve every model that the repository has at the start. poll: also follow changes of the repository. "
        "explicit: load and unload by call, with RepositoryModelLoad and RepositoryModelUnload.",
    )
    load_model: tuple[str, ...] = setting(
        (), Text(), "With --model-control explicit: load this model at the start; '*' loads all. Repeatable."
    )
    poll_seconds: float = setting(
        15.0, SecondsRange(0.1), "With --model-control poll: how often the server looks for changes."
    )
    num_versions: int = setting(
        1,
        WholeNumber(0),
        "How many versions of a model are served, each by its number: the promoted one, then the latest. 0: all.",
    )
    require_proof: bool = setting(
        False,
        Switch(),
        "Serve only files that have passed the gate of 'hangtag export' and were not changed since.",
    )
    trial_load_seconds: float = setting(
        0.0,
        SecondsRange(0),
        "Load each version in a child process first, and refuse a file that takes longer there, takes more than "
        "--trial-load-mib, or ends the process. 0: load it in the server alone, which such a file may end.",
    )
    trial_load_mib: int = setting(
        4096,
        WholeNumber(512, 1_048_576),
        "The most memory that the child process of --trial-load-seconds may take, in MiB. It comes on top of the "
        "server's own.",
    )
    host: str = setting(
        "127.0.0.1", Text(), "The address to listen on. Beyond loopback, use TLS, and tokens or --tls-client-ca."
    )
    port: int = setting(8001, WholeNumber(0, 65535), "The gRPC port. 0 picks a free one, which the log names.")
    http_port: int = setting(
        8000,
        WholeNumber(OFF, 65535),
        "The HTTP port: the Open Inference Protocol over REST, images to classify, /metrics. 0 picks a free one, "
        "-1: none.",
    )
    allowed_host: tuple[str, ...] = setting(
        (),
        Text(),
        "A name that clients call the HTTP port by, such as models.example. With this option a request whose Host is "
        "neither such a name nor an address nor localhost is refused. Without tokens, models are loaded and unloaded "
        "only under these. Repeatable.",
    )
    no_page: bool = setting(
        False, Switch(), "Do not serve the page on the HTTP port (GET /) where people try the models in a browser."
    )
    metrics_port: int = setting(
        8002,
        WholeNumber(OFF, 65535),
        "The HTTP port of Prometheus' /metrics and of /v2/health/ready. 0 picks a free one, -1: none.",
    )
    otlp_endpoint: str = setting(
        "",
        Text(),
        "Send OpenTelemetry traces to this collector (OTLP over gRPC, http://HOST:4317). Needs the extra otel.",
    )
    provider: str = setting(
        "auto",
        Choice(("auto", "cpu", "cuda", "tensorrt")),
        "ONNX Runtime's execution provider. auto: CUDA where it is available, else the CPU. cuda, tensorrt: the server "
        "does not start without it.",
    )
    gpu_device_id: int = setting(0, WholeNumber(0), "The number of the GPU that computes.")
    gpu_mem_limit_mib: int = setting(
        0, WholeNumber(0), "The most GPU memory that a model's arena takes, weights included, in MiB. 0: no limit."
    )
    cuda_graphs: str = setting(
        "off",
        Choice(("off", "auto", "on")),
        "Compute batches by CUDA graphs, captured for a few batch sizes. on: for each model that can be captured. "
        "auto: only where graphs are measured to be faster.",
    )
    workers: int = setting(
        1,
        WholeNumber(1, 256),
        "Processes that share the port. Clients need several connections to use them. They pay where Python's global "
        "interpreter lock is the limit and not the computing.",
    )
    instances: int = setting(
        0,
        WholeNumber(0, 64),
        "How many batches of one model may be computed at once. 0: two where there are two CPUs, else one.",
    )
    intra_op_threads: int = setting(
        0,
        WholeNumber(0, 256),
        "ONNX Runtime's threads per instance. 0: the usable CPUs / (instances x workers), and all of a worker's CPUs "
        "for a batch that is computed alone, where that is measured to be faster.",
    )
    max_batch_size: int = setting(
        64, WholeNumber(1, MOST_SAMPLES), "The most samples computed together, and in one request."
    )
    model_max_batch_size: tuple[tuple[str, int], ...] = setting(
        (),
        ModelLimit(MOST_SAMPLES),
        "--max-batch-size for one model, whatever its file says; 0: its requests are never joined. Repeatable.",
    )
    max_queue_size: int = setting(
        256, WholeNumber(1, 4096), "The most requests waiting per model; one more gets RESOURCE_EXHAUSTED at once."
    )
    max_queue_delay_microseconds: int = setting(
        0,
        WholeNumber(0, 10_000_000),
        "How long the oldest waiting request may be held back to fill a batch. 0: never held back.",
    )
    tls_cert: Path | None = setting(
        None,
        FilePath(),
        "Serve TLS with this certificate (PEM, with its chain). Read again when it changes. Needs --tls-key.",
    )
    tls_key: Path | None = setting(
        None, FilePath(), "The key of --tls-cert (PEM, not encrypted). Read again when it changes."
    )
    tls_client_ca: Path | None = setting(
        None, FilePath(), "Require of every caller a certificate that these authorities (PEM) signed: mutual TLS."
    )
    token_file: Path | None = setting(
        None,
        FilePath(),
        "Require of every call but health's a bearer token of this file, one per line. Read again when it changes.",
    )
    max_message_mib: int = setting(16, WholeNumber(1, 1024), "The largest message received or sent, in MiB.")
    max_http_bodies_mib: int = setting(
        0,
        WholeNumber(0, 1_048_576),
        "The most that the bodies of a process's HTTP requests in flight take together, in MiB; one more gets 429. "
        "0: 16 times --max-message-mib.",
    )
    max_concurrent_streams: int = setting(
        100,
        WholeNumber(1, 100_000),
        "How many calls a connection may have in flight; more wait in the client, under its own deadline.",
    )
    max_connections: int = setting(
        1024,
        WholeNumber(1, 1_000_000),
        "The most open connections; the server closes a further one, on native within a second.",
    )
    connection_idle_seconds: float = setting(
        900.0, SecondsRange(1), "Close a connection that has had no call for this long."
    )
    connection_age_seconds: float = setting(
        0.0,
        SecondsRange(0),
        "Make clients connect anew after this long, so that clients that balance the load find new replicas. A stream "
        "that lasts 20 s longer is cut. 0: never.",
    )
    keepalive_seconds: float = setting(
        60.0,
        SecondsRange(1),
        "Ping a client that has been silent for this long; no answer in 20 s ends its connection.",
    )
    min_ping_seconds: float = setting(
        10.0, SecondsRange(0), "Close the connections of clients that ping more often than this."
    )
    transport: str = setting(
        "auto",
        Choice(("auto", "native", "grpc")),
        "What speaks gRPC with the clients. native: pygrpc-native (the extra native), up to three times as many "
        "calls a second with small models, without TLS, and without limits on connections' age and idleness; it reads "
        "a message before it refuses it as too large, so use it where the network is trusted or a proxy sets limits. "
        "grpc: grpcio. auto: native where it is installed, TLS is off and the address is loopback; else grpc.",
    )
    drain_seconds: float = setting(20.0, SecondsRange(0), "On SIGTERM, how long calls in flight may take to finish.")
    limits: Limits = field(default_factory=Limits)
    """No setting of an operator: see `Limits`."""

    def __post_init__(self) -> None:
        validate(self)
        if self.max_queue_size < self.largest_batch_size:
            raise StartError(
                f"--max-queue-size ({self.max_queue_size}) is below --max-batch-size ({self.largest_batch_size}): a "
                "full batch could never gather. Raise the one or lower the other."
            )
        if 0 < self.max_http_bodies_mib < self.max_message_mib:
            raise StartError(
                f"--max-http-bodies-mib ({self.max_http_bodies_mib}) is below --max-message-mib "
                f"({self.max_message_mib}): the largest request could never come by HTTP. Raise the one or lower the "
                "other."
            )
        if self.load_model and self.model_control != "explicit":
            raise StartError("--load-model goes with --model-control explicit; otherwise every model is loaded")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartError("TLS needs a certificate and its key: give --tls-cert and --tls-key together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
        if self.tls_cert is not None and self.transport == "native":
            raise StartError(
                "--transport native has no TLS. Use --transport grpc, or leave TLS to a proxy in front of the server: "
                "see 'TLS and the native transport' in docs/operations.md."
            )

    @property
    def instance_count(self) -> int:
        """``instances``; for 0 two where the machine has two CPUs: one computes while the other gathers its batch."""
        return self.instances or min(2, usable_cpus())

    @property
    def connections(self) -> int:
        """How many clients may be connected to a process, over gRPC and HTTP together."""
        return self.max_connections * (1 if self.http_port == OFF else 2)

    @property
    def http_bodies_bytes(self) -> int:
        """``max_http_bodies_mib`` in bytes; for 0 room for 16 of the largest messages."""
        return (self.max_http_bodies_mib or _LARGEST_BODIES * self.max_message_mib) << 20

    @property
    def largest_batch_size(self) -> int:
        """The largest ``max_batch_size`` of any model."""
        return max([self.max_batch_size, *(limit for _, limit in self.model_max_batch_size)])

    def max_batch_size_of(self, model: str) -> int:
        """The most samples of this model computed together; without meaning where its requests are never joined."""
        return dict(self.model_max_batch_size).get(model) or self.max_batch_size

    def batching_override(self, model: str) -> bool | None:
        """Whether the operator allows joining this model's requests; None leaves it to the model's file."""
        limit = dict(self.model_max_batch_size).get(model)
        return None if limit is None else limit > 0

    def address(self, port: int) -> str:
        """host:port, with brackets around an IPv6 host."""
        return address_of(self.host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def dangers(self) -> tuple[str, ...]:
        """What other machines could do to a server with these settings; empty where it listens on loopback only."""
        if self.is_loopback:
            return ()
        callers = () if self.token_file or self.tls_client_ca else ("anybody may call (set --token-file)",)
        readers = () if self.tls_cert else ("all can be read on the way (set --tls-cert and --tls-key)",)
        return callers + readers
