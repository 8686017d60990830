"""A target as its server describes it."""

from dataclasses import dataclass, field

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.plan.target import Target


@dataclass(frozen=True)
class Description:
    """What a server says about a target. Strings are empty, and other values None, where the server does not say."""

    target: Target
    server_name: str
    server_version: str
    metadata: pb.ModelMetadataResponse
    max_batch_size: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)  # From the model's configuration.
    instances: int | None = None  # Batches that the server computes concurrently.
    statistics: bool = False  # Whether the server keeps statistics of this model.
    answering_version: str = ""  # The model version that answered the first call.

    @property
    def model_versions(self) -> tuple[str, ...]:
        """The loaded versions of the model."""
        return tuple(self.metadata.versions)

    @property
    def version(self) -> str:
        """The version that answered, or else the loaded versions."""
        return self.answering_version or ", ".join(self.model_versions)

    @property
    def provider(self) -> str:
        """The model's execution provider."""
        return self.parameters.get("execution_provider", "")

    @property
    def runtime_version(self) -> str:
        """ONNX Runtime's version on the server."""
        return self.parameters.get("onnxruntime_version", "")

    @property
    def threads(self) -> str:
        """The model's instances and the threads of each, for a reader."""
        if self.instances is None:
            return ""
        text = f"{self.instances} instance{'s' * (self.instances != 1)}"
        threads, threads_alone = (self.parameters.get(f"{name}_threads", "") for name in ("intra_op", "alone"))
        if threads:
            text += f" of {threads} thread{'s' * (threads != '1')}"
        return text + (f" ({threads_alone} for a batch alone)" if threads_alone not in ("", threads) else "")

    @property
    def file_bytes(self) -> int | None:
        """The size of the model's file, which is about the memory that its weights take."""
        try:
            return int(self.parameters["file_bytes"])
        except (KeyError, ValueError):
            return None

    @property
    def expected_accuracy(self) -> float | None:
        """The accuracy on the test set that the model's file records."""
        try:
            return float(self.parameters["hangtag.test_accuracy"])
        except (KeyError, ValueError):
            return None
