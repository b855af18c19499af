"""ONNX graphs of feed-forward models, in evaluation: rows in hpcml's layout go in, the model's outputs come out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.errors import ConfigError, ExportError
from hpcml.exporting.files import write_whole
from hpcml.exporting.operators import chain
from hpcml.nn import Model

OPSET, IR = 20, 9
"""The first set of operators that has GELU, and the version of the file format that came with it: what older runtimes read."""

MOST_BYTES = (1 << 31) - (1 << 20)
"""An ONNX file with its weights inside is a protocol buffer, which ends at 2 GiB; some room is left for the graph."""


class Graph:
    """Nodes and constants of an ONNX graph as they are added."""

    def __init__(self, library: Any) -> None:
        """Begin with nothing; `library` is the package onnx."""
        self.onnx = library
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        """Add an array, of any device, under this name made single, and return the name."""
        name = f"{name}_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(to_host(array)), name))
        return name


def export_onnx(model: Model, path: str | os.PathLike[str], told: Mapping[str, str] | None = None) -> None:
    """Write a feed-forward model as an ONNX file with input "rows" (B, *shape) and output "outputs" (B, *outputs), B free.

    It computes what the model computes in evaluation, without what a loss adds, such as the softmax of a cross-entropy.

    Args:
        model: on any device.
        path: of the file, written whole or not at all.
        told: texts for the file's metadata.

    Raises:
        ConfigError: if onnx is not installed.
        ExportError: if a layer has no counterpart here, by its name; if the model is too large; if the file cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError("ONNX files need the package onnx (pip install 'hpcml[export]')") from error
    size = model.arena.n * model.arena.dtype.itemsize
    if size > MOST_BYTES:
        raise ExportError(f"the model has {size:,} bytes of parameters, an ONNX file holds {MOST_BYTES:,}; export .safetensors instead")
    library: Any = onnx
    graph = Graph(library)
    last = chain(graph, model.layers, "rows")
    graph.nodes.append(library.helper.make_node("Identity", [last], ["outputs"], "outputs"))
    kind = library.helper.np_dtype_to_tensor_dtype(model.arena.dtype)
    ends = [
        [library.helper.make_tensor_value_info(name, kind, ["B", *shape])]
        for name, shape in (("rows", model.shape), ("outputs", model.outputs))
    ]
    made = library.helper.make_model(
        library.helper.make_graph(graph.nodes, "hpcml", *ends, graph.constants),
        opset_imports=[library.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="hpcml",
    )
    library.helper.set_model_props(made, dict(told or {}))
    write_whole(Path(path), lambda partial: library.save_model(made, str(partial), format="protobuf"))
