"""What an ONNX graph is made of. Needs the package onnx, and nothing larger."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx


def digest(path: Path) -> str:
    """SHA-256 of the file's graph and weights: of all but its metadata, which may be added to."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator the graph has, those of its subgraphs (the bodies of loops) included."""
    return Counter(node.op_type for node in nodes(model.graph))


def nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, or of a function's body, and of the subgraphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from nodes(subgraph)
