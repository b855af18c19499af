"""What each layer is in ONNX's operators.

Letters: B rows (B, ..., C), channels last. ONNX has them first, so a convolution or pooling stands between two transpositions, most of
which a runtime takes out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.errors import ExportError
from hpcml.exporting import recurrent, tokens, units
from hpcml.exporting.nodes import Graph
from hpcml.nn import layers
from hpcml.nn.layers.layer import Layer, Shape


def chain(graph: Graph, row: Sequence[Layer], x: str) -> str:
    """Add layers one after the other behind the value x and return the name of the last output.

    Raises:
        ExportError: if a layer has no operators here; a subclass may compute something else, so it is not taken for its parent.
    """
    for layer in row:
        if type(layer) not in OPERATORS:
            known = ", ".join(sorted(kind.__name__ for kind in OPERATORS))
            raise ExportError(f"ONNX export does not know the layer {type(layer).__name__}; it knows {known}; export .safetensors instead")
        x = OPERATORS[type(layer)](graph, layer, x)
    return x


def _dense(graph: Graph, layer: layers.Dense, x: str) -> str:
    return graph.add("Add", graph.add("MatMul", x, graph.parameter(layer, "weight")), graph.parameter(layer, "bias"))


def _bias(graph: Graph, layer: Layer, x: str) -> str:
    return graph.add("Add", x, graph.parameter(layer, "bias"))


def _channels_first(graph: Graph, shape: Shape, x: str) -> str:
    last = len(shape)
    return graph.add("Transpose", x, perm=[0, last, *range(1, last)])


def _channels_last(graph: Graph, shape: Shape, x: str) -> str:
    return graph.add("Transpose", x, perm=[0, *range(2, len(shape) + 1), 1])


def _windows(layer: layers.Conv | layers.MaxPool | layers.AveragePool) -> dict[str, Any]:
    axes = len(layer.in_shape) - 1
    size, stride, padding = (list(pair[-axes:]) for pair in (layer.windows.size, layer.windows.stride, layer.windows.padding))
    return {"kernel_shape": size, "strides": stride, "pads": padding * 2}


def _conv(graph: Graph, layer: layers.Conv, x: str) -> str:
    weight = layer.parameters["weight"]
    inputs = [graph.constant(weight.name, np.moveaxis(to_host(weight.data), (-1, -2), (0, 1)))]
    if layer.bias:
        inputs.append(graph.parameter(layer, "bias"))
    x = _channels_first(graph, layer.in_shape, x)
    return _channels_last(graph, layer.in_shape, graph.add("Conv", x, *inputs, group=layer.groups, **_windows(layer)))


def _pool(graph: Graph, layer: layers.MaxPool | layers.AveragePool, x: str) -> str:
    largest = isinstance(layer, layers.MaxPool)
    if layer.size is None:
        return graph.add("ReduceMax" if largest else "ReduceMean", x, graph.whole(*range(1, len(layer.in_shape))), keepdims=0)
    counted = {} if largest else {"count_include_pad": 1}
    x = _channels_first(graph, layer.in_shape, x)
    return _channels_last(graph, layer.in_shape, graph.add("MaxPool" if largest else "AveragePool", x, **_windows(layer), **counted))


def _batch_norm(graph: Graph, layer: layers.BatchNorm, x: str) -> str:
    """Running statistics, gain and bias are one factor and one summand a channel, made in float64."""
    names = ("gain", "bias", "mean", "variance")
    gain, bias, mean, variance = (to_host(layer.parameters[name].data).astype(np.float64) for name in names)
    factor = gain / np.sqrt(variance + layer.epsilon)
    kind = layer.parameters["gain"].data.dtype
    scaled = graph.add("Mul", x, graph.constant("factor", factor.astype(kind)))
    return graph.add("Add", scaled, graph.constant("summand", (bias - mean * factor).astype(kind)))


def _layer_norm(graph: Graph, layer: layers.LayerNorm, x: str) -> str:
    inputs = (graph.parameter(layer, "gain"), graph.parameter(layer, "bias"))
    return graph.add("LayerNormalization", x, *inputs, axis=-1, epsilon=layer.epsilon)


def _rms_norm(graph: Graph, layer: layers.RMSNorm, x: str) -> str:
    """The operator of that name is younger than OPSET."""
    square = graph.add("ReduceMean", graph.add("Mul", x, x), graph.whole(-1))
    root = graph.add("Sqrt", graph.add("Add", square, graph.number(layer.epsilon)))
    return graph.add("Mul", graph.add("Div", x, root), graph.parameter(layer, "gain"))


def _gelu(graph: Graph, layer: layers.GELU, x: str) -> str:
    return graph.add("Gelu", x, approximate="tanh" if layer.tanh else "none")


def _silu(graph: Graph, layer: Layer, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _reshape(graph: Graph, layer: Layer, x: str) -> str:
    return graph.shaped(x, *layer.out_shape)


def _residual(graph: Graph, layer: layers.Residual, x: str) -> str:
    straight = chain(graph, [layer.projection], x) if layer.projection else x
    return graph.add("Add", straight, chain(graph, layer.layers, x))


def _parallel(graph: Graph, layer: layers.Parallel, x: str) -> str:
    outs = [chain(graph, [branch], x) for branch in layer.branches]
    return graph.add("Concat", *outs, axis=-1) if layer.concatenate else graph.add("Sum", *outs)


def _same(graph: Graph, layer: Layer, x: str) -> str:
    return x


def _single(operator: str, **attributes: Any) -> Callable[[Graph, Layer, str], str]:
    return lambda graph, layer, x: graph.add(operator, x, **attributes)


OPERATORS: dict[type[Layer], Callable[[Graph, Any, str], str]] = {
    layers.Dense: _dense,
    layers.Bias: _bias,
    layers.Conv: _conv,
    layers.MaxPool: _pool,
    layers.AveragePool: _pool,
    layers.BatchNorm: _batch_norm,
    layers.LayerNorm: _layer_norm,
    layers.ReLU: _single("Relu"),
    layers.Tanh: _single("Tanh"),
    layers.Sigmoid: _single("Sigmoid"),
    layers.GELU: _gelu,
    layers.SiLU: _silu,
    layers.Softmax: _single("Softmax", axis=-1),
    layers.Flatten: _reshape,
    layers.Reshape: _reshape,
    layers.Dropout: _same,
    layers.RestrictedBoltzmann: units.restricted_boltzmann,
    layers.SelfOrganisingMap: units.self_organising_map,
    layers.Hopfield: units.hopfield,
    **dict.fromkeys(recurrent.ORDER, recurrent.recurrent),
    layers.RMSNorm: _rms_norm,
    layers.Embedding: tokens.embedding,
    layers.NGrams: tokens.n_grams,
    layers.Recall: tokens.recall,
    layers.Positions: tokens.positions,
    layers.TiedHead: tokens.tied_head,
    layers.Rotary: tokens.rotary,
    layers.DotProduct: tokens.dot_product,
    **dict.fromkeys((layers.Sequential, layers.Attention), lambda graph, layer, x: chain(graph, layer.layers, x)),
    layers.Recompute: lambda graph, layer, x: chain(graph, layer.blocks, x),
    layers.Residual: _residual,
    layers.Parallel: _parallel,
}
