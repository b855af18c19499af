"""ONNX graphs of models in evaluation: rows in hpcml's layout go in, the model's outputs come out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from hpcml.errors import ExportError
from hpcml.exporting.files import package, write_whole
from hpcml.exporting.nodes import Graph
from hpcml.exporting.operators import chain
from hpcml.exporting.tokens import takes_tokens
from hpcml.nn import Model

OPSET, IR = 20, 9
"""The first set of operators that has GELU, and the version of the file format that came with it: what older runtimes read."""

MOST_BYTES = (1 << 31) - (1 << 20)
"""An ONNX file with its weights inside is a protocol buffer, which ends at 2 GiB; some room is left for the graph."""


def export_onnx(model: Model, path: str | os.PathLike[str], told: Mapping[str, str] | None = None) -> None:
    """Write a model as an ONNX file with input "rows" (B, *shape) and output "outputs" (B, *outputs), B free.

    It computes what the model computes in evaluation, without what a loss adds, such as the softmax of a cross-entropy.
    Rows are of the model's dtype, or int64 where they are tokens; a token outside the vocabulary is an error in the runtime.

    Arguments are those of export_weights; `told` stands in the file's metadata.

    Raises:
        ConfigError, ExportError: as there, of onnx; also if a layer has no counterpart here, by its name, or the model is too large.
    """
    library = package("onnx")
    size = model.arena.n * model.arena.dtype.itemsize
    if size > MOST_BYTES:
        raise ExportError(f"the model has {size:,} bytes of parameters, an ONNX file holds {MOST_BYTES:,}; export .safetensors instead")
    graph = Graph(library, model.arena.dtype)
    last = chain(graph, model.layers, "rows")
    graph.nodes.append(library.helper.make_node("Identity", [last], ["outputs"], "outputs"))
    kind = library.helper.np_dtype_to_tensor_dtype(model.arena.dtype)
    read = library.TensorProto.INT64 if takes_tokens(model.layers) else kind
    ends = [
        [library.helper.make_tensor_value_info(name, dtype, ["B", *shape])]
        for name, dtype, shape in (("rows", read, model.shape), ("outputs", kind, model.outputs))
    ]
    made = library.helper.make_model(
        library.helper.make_graph(graph.nodes, "hpcml", *ends, graph.constants),
        opset_imports=[library.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="hpcml",
    )
    library.helper.set_model_props(made, dict(told or {}))
    write_whole(Path(path), lambda partial: library.save_model(made, str(partial), format="protobuf"))
