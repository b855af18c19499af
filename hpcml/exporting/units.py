"""What the models that learn by rules of their own are in ONNX's operators, once they have learnt.

Letters: B rows of d numbers, h hidden units, m units on a grid. A graph has no errors of its own: rows whose numbers stand for no unit
between off and on, which are an error here, become numbers that are none.
"""

from __future__ import annotations

import math

import numpy as np

from hpcml.arrays import to_host
from hpcml.exporting.nodes import Graph
from hpcml.nn import layers


def restricted_boltzmann(graph: Graph, layer: layers.RestrictedBoltzmann, x: str) -> str:
    """Add the way up to the hidden units and back, by probabilities."""
    weight, highest = graph.parameter(layer, "weight"), graph.number(layer.highest)
    rows = graph.add("Div", _within(graph, x, layer.highest), highest)
    up = graph.add("Sigmoid", graph.add("Add", graph.add("MatMul", rows, weight), graph.parameter(layer, "hidden")))
    down = graph.add("MatMul", up, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Mul", graph.add("Sigmoid", graph.add("Add", down, graph.parameter(layer, "visible"))), highest)


def self_organising_map(graph: Graph, layer: layers.SelfOrganisingMap, x: str) -> str:
    """Add the place of the nearest unit: the first of those where x w - w^2 / 2 is largest."""
    sums, counts = (to_host(layer.parameters[key].data) for key in ("sums", "counts"))
    places = sums / counts[:, None]
    near = graph.add("MatMul", x, graph.add("Transpose", graph.constant("places", places), perm=[1, 0]))
    near = graph.add("Sub", near, graph.constant("lengths", (places * places).sum(axis=1) / 2))
    return graph.add("Gather", graph.constant("places", places), graph.add("ArgMax", near, axis=1, keepdims=0))


def hopfield(graph: Graph, layer: layers.Hopfield, x: str) -> str:
    """Add the sweeps, each a loop over the units, since a unit reads those that were set before it."""
    rows, on, off = _within(graph, x, layer.highest), graph.number(1), graph.number(-1)
    states = graph.add("Where", graph.add("Greater", rows, graph.number(layer.highest / 2)), on, off)
    states = graph.add("Transpose", states, perm=[1, 0])
    d = layer.in_shape[0]
    units = graph.constant("units", np.eye(d, dtype=np.bool_))
    for _ in range(layer.sweeps):
        states = graph.add("Scan", states, graph.parameter(layer, "weight"), units, body=_sweep(graph, d), num_scan_inputs=2)
    recalled = graph.add("Transpose", states, perm=[1, 0])
    out = graph.add("Mul", graph.add("Add", recalled, on), graph.number(layer.highest / 2))
    wrong = graph.add("IsNaN", graph.add("ReduceSum", rows, graph.whole(1)))
    return graph.add("Where", wrong, graph.number(math.nan), out)


def _sweep(graph: Graph, d: int) -> object:
    """Return the body of the loop: states (d, B), a unit's weights (d,) and which unit it is (d,) -> states."""
    inside, helper = Graph(graph.onnx, graph.dtype, "sweep_"), graph.onnx.helper
    field = inside.add("MatMul", "sweep_weights", "sweep_states")
    stays = inside.add("Equal", field, inside.number(0))
    moved = inside.add("Where", stays, "sweep_states", inside.add("Sign", field))
    after = inside.add("Where", inside.add("Unsqueeze", "sweep_unit", inside.whole(1)), moved, "sweep_states")
    kind = helper.np_dtype_to_tensor_dtype(graph.dtype)
    told = {"sweep_states": (kind, [d, "B"]), "sweep_weights": (kind, [d]), "sweep_unit": (graph.onnx.TensorProto.BOOL, [d])}
    ends = [helper.make_tensor_value_info(name, *value) for name, value in told.items()]
    return helper.make_graph(inside.nodes, "sweep", ends, [helper.make_tensor_value_info(after, kind, [d, "B"])], inside.constants)


def _within(graph: Graph, x: str, highest: float) -> str:
    """Return rows with no number in place of those below 0 or above `highest`."""
    inside = graph.add("And", graph.add("GreaterOrEqual", x, graph.number(0)), graph.add("LessOrEqual", x, graph.number(highest)))
    return graph.add("Where", inside, x, graph.number(math.nan))
