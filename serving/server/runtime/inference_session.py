"""Opens ONNX Runtime's InferenceSessions, and reads what a session knows about its model."""

from functools import cache
from pathlib import Path

import onnxruntime

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.arena import share_one_arena
from hangtag.serving.server.runtime.providers import BY_NAME, CUDA, Gpu, Provider, not_obtained, provider_list
from hangtag.serving.signature import Signature, TensorSpec, UnsupportedModelError

VERSION: str = onnxruntime.__version__


class SessionOpener:
    """Opens sessions of one model file with the same GPU settings."""

    def __init__(self, path: Path, *, threads: int, gpu: Gpu) -> None:
        """threads: ONNX Runtime's intra_op_num_threads, unless a call says otherwise."""
        self.path, self._threads, self._gpu = path, threads, gpu

    def open(
        self, provider: str, *, threads: int | None = None, cuda_graphs: bool = False
    ) -> onnxruntime.InferenceSession:
        """Open a session with ``cpu``, ``cuda`` or ``tensorrt``.

        Args:
            provider: Which of them.
            threads: For a session beside the first one, with so many threads. Between two batches they do not spin,
                because other sessions compute then.
            cuda_graphs: Whether the session captures CUDA graphs.

        Raises:
            ModelLoadError: The provider is not available, or ONNX Runtime cannot load the file.
        """
        available = onnxruntime.get_available_providers()
        requested = provider_list(provider, available, self._gpu, cuda_graphs=cuda_graphs)
        if provider != "cpu":
            _preload_cuda()
        session = self._open(requested, threads or self._threads, spin_between=threads is None)
        obtained = session.get_providers()[0]
        if obtained != BY_NAME[provider]:
            raise ModelLoadError(f"{self.path}: {not_obtained(provider, obtained)}")
        return session

    def open_best(self) -> tuple[onnxruntime.InferenceSession, str]:
        """Open a session with CUDA where it is available, else with the CPU. Also returns why CUDA is not used."""
        reason = ""
        if CUDA in onnxruntime.get_available_providers():
            try:
                return self.open("cuda"), ""
            except ModelLoadError as error:
                reason = str(error)
        return self.open("cpu"), reason

    def _open(self, requested: list[Provider], threads: int, *, spin_between: bool) -> onnxruntime.InferenceSession:
        share_one_arena()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.force_spinning_stop", "0" if spin_between else "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4  # fatal: ONNX Runtime also raises its errors, and our log has those
        try:
            # With its fallback, ONNX Runtime prints to standard output and goes on with another provider.
            return onnxruntime.InferenceSession(self.path, options, providers=requested, enable_fallback=0)
        except Exception as error:
            raise ModelLoadError(f"{self.path} cannot be loaded by ONNX Runtime {VERSION}: {error}") from error


def read_signature(
    session: onnxruntime.InferenceSession, path: Path, batching_override: bool | None = None
) -> Signature:
    """The model's inputs, outputs and metadata. Raises ModelLoadError where hangtag cannot serve such a model."""
    try:
        return Signature.from_onnx(
            [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in session.get_inputs()],
            [TensorSpec.from_onnx(node.name, node.type, node.shape) for node in session.get_outputs()],
            session.get_modelmeta().custom_metadata_map,
            batching_override,
        )
    except UnsupportedModelError as error:
        raise ModelLoadError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:  # ONNX Runtime loads such a file, and raises this when it is asked for the text
        raise ModelLoadError(f"{path}: a name, or a text of its metadata, is not UTF-8: {error}") from error


def operators(session: onnxruntime.InferenceSession) -> set[str]:
    """The operators of the optimised graph, those of subgraphs and functions included.

    Operators of the standard have their bare name, others their domain before it, such as com.microsoft.FusedConv. The
    set is empty where this version of ONNX Runtime does not report them.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return set()
    nodes = [node for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    return {node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in nodes}


def graph_options(number: int) -> onnxruntime.RunOptions:
    """RunOptions that capture the CUDA graph of this number in the first runs and replay it later; -1: no graph."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


@cache
def _preload_cuda() -> None:
    """Load CUDA's libraries where they come from PyPI. Once, because ONNX Runtime prints those that are missing."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
