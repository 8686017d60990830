"""Read and extend an ONNX model in memory: digest, operators, nodes, metadata. This module does not need torch."""

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.serving.signature import PREFIX

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "ARM dot products",
    "i8mm": "ARM int8 matrix products",
}
"""Processor instructions on which the speed and the rounding of int8 depend: name in /proc/cpuinfo -> maker's name."""


def digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the graph and its weights. The digest excludes the metadata, which may be added later."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's properties under ``hangtag.``, without that prefix."""
    return {
        entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the instructions of INSTRUCTIONS that this machine has; empty if the file ``cpuinfo`` does not exist."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return ", ".join(name for flag, name in INSTRUCTIONS.items() if flag in flags)


def versions() -> dict[str, str]:
    """Return the versions of the programs that write and check a file, as metadata: program -> version."""
    return {"python": platform.python_version(), "onnx": onnx.__version__, "onnxruntime": ONNXRUNTIME_VERSION}


def write(model: onnx.ModelProto, added: Mapping[str, str], file: Path) -> None:
    """Write a file with exactly these properties under ``hangtag.`` (keys without prefix); other properties stay."""
    others = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(PREFIX)}
    onnx.helper.set_model_props(model, others | {PREFIX + key: value for key, value in added.items()})
    file.write_bytes(model.SerializeToString())


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Count the nodes of each operator in the graph and in its subgraphs (the bodies of branches and loops)."""
    return Counter(node.op_type for node in nodes(model.graph))


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values, also in subgraphs. The graph must not contain the new names yet."""
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(end, end) for end in ends]
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                rename(subgraph, names)


def nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph or of a function's body, including the nodes of subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from nodes(subgraph)
