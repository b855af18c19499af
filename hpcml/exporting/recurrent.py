"""What recurrent layers are in ONNX's operators, which take steps first and name the blocks of columns in another order.

Letters: B rows of T steps of d numbers; k numbers of state; G blocks of k columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcml.arrays import to_host
from hpcml.exporting.nodes import Graph
from hpcml.nn import layers
from hpcml.nn.layers.recurrent import Recurrent

ORDER: dict[type[Recurrent], tuple[int, ...]] = {layers.RNN: (0,), layers.LSTM: (0, 3, 1, 2), layers.GRU: (1, 0, 2)}
"""Where ONNX's blocks stand here: an LSTM's i, o, f, c among i, f, g, o; a GRU's z, r, h among r, z, n."""


def recurrent(graph: Graph, layer: Recurrent, x: str) -> str:
    """Add a recurrent layer with all states, or the last."""
    order, k = ORDER[type(layer)], layer.width
    held = {key: to_host(parameter.data) for key, parameter in layer.parameters.items()}
    state_bias = np.zeros_like(held["bias"])
    if "state_bias" in held:  # inside the product with the reset gate, which is what linear_before_reset says
        state_bias[2 * k :] = held["state_bias"]
    bias = np.concatenate([_ordered(held["bias"], order), _ordered(state_bias, order)])
    inputs = [_ordered(held["input"], order).T, _ordered(held["state"], order).T, bias]
    names = [graph.constant(layer.parameters[key].name, part[None]) for key, part in zip(("input", "state", "bias"), inputs, strict=True)]
    told = {"linear_before_reset": 1} if isinstance(layer, layers.GRU) else {}
    steps = graph.add("Transpose", x, perm=[1, 0, 2])
    out = graph.add(type(layer).__name__, steps, *names, output=0 if layer.sequence else 1, hidden_size=k, **told)
    out = graph.add("Squeeze", out, graph.whole(1 if layer.sequence else 0))
    return graph.add("Transpose", out, perm=[1, 0, 2]) if layer.sequence else out


def _ordered(columns: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return an array whose last axis has G blocks, in this order."""
    parts = np.split(columns, len(order), axis=-1)
    return np.concatenate([parts[place] for place in order], axis=-1)
