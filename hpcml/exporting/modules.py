"""PyTorch's state dicts in hpcml's layout: which module gives which layer its parameters, and how they are turned.

Letters: d inputs, k outputs, C channels, g groups. PyTorch keeps (k, d) and (k, C / g, size...), hpcml (d, k) and (size..., C / g, k).
PyTorch flattens images channels first, hpcml channels last: what stands between a Flatten and the next Dense changes its order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hpcml.errors import ExportError
from hpcml.exporting.files import Tensors
from hpcml.nn import Model, layers
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.layers.layer import Layer, Shape

Arrays = dict[str, np.ndarray]

RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TENSORS = ("weight", "bias", "running_mean", "running_var", *RECURRENT)
"""What PyTorch calls the tensors of a module; a tensor of another name is a module of its own."""

ENCODER = ("norm1", "self_attn", "self_attn.out_proj", "norm2", "linear1", "linear2")
"""Modules of nn.TransformerEncoderLayer with norm_first, in the order of their use; they are registered in another one."""

BORROWED = (layers.MaxPool, layers.Dropout)
"""Layers between a convolution and its `Bias`: PyTorch's bias is in the convolution."""


@dataclass(frozen=True, slots=True)
class Place:
    """One layer's parameters: the tensors of the module that fills them, and what becomes of them."""

    path: str
    wants: tuple[str, ...]
    fill: Callable[[Arrays], Arrays]
    """Tensors by PyTorch's names -> arrays by the names of the arena."""
    optional: bool = False
    """Whether a state dict may lack it: a head that shares the embedding's table."""


def translated(model: Model, tensors: Tensors, names: Sequence[str] | None) -> tuple[Arrays, dict[str, str]]:
    """Return arrays by the arena's names, and the tensors that each was made of.

    Raises:
        ExportError: if the modules are not those of the model's layers, or their order is not known.
    """
    modules, wanted = _modules(tensors), places(model)
    order = list(names) if names is not None else _in_order(list(modules), tensors)
    lacking = [name for name in order if name not in modules]
    if lacking or len(order) != len(modules):
        which = f"there is no module {lacking[0]!r}" if lacking else f"{len(order)} of {len(modules)} modules are named"
        raise ExportError(f"{tensors.told}: {which}; its modules are {', '.join(modules)}")
    if len(order) == len(wanted) - 1 and wanted[-1].optional:
        wanted = wanted[:-1]
    if len(order) != len(wanted) or any(set(place.wants) != set(modules[name]) for place, name in zip(wanted, order, strict=True)):
        raise ExportError(f"{tensors.told}: not the modules of this model's layers\n{_drawn(wanted, order, modules)}")
    found: Arrays = {}
    origin: dict[str, str] = {}
    for place, name in zip(wanted, order, strict=True):
        for target, array in place.fill({key: tensors.arrays[full] for key, full in modules[name].items()}).items():
            if target in found and not np.array_equal(found[target], array):
                raise ExportError(f"{tensors.told}: {name} differs from {origin[target]}; this model's {place.path} shares its numbers")
            found[target] = array
            origin[target] = " + ".join(modules[name][key] for key in place.wants)
    return found, origin


def places(model: Model) -> list[Place]:
    """Return the places of a model's layers that have parameters, in the order of their forward.

    Raises:
        ExportError: if a layer has no counterpart in PyTorch, by its name.
    """
    found: list[Place] = []
    images, order, open_conv = False, None, False
    for path, layer in walk(numbered(model.layers)):
        path = path[:-1]
        _require_readable(path, layer, images, order)
        kind = type(layer)
        if kind in (layers.Flatten, layers.Reshape) and images and len(layer.out_shape) == 1 and len(layer.in_shape) > 1:
            order = channels_first(layer.in_shape)
        if kind is layers.Bias and open_conv:
            found[-1] = _with_bias(found[-1], layer)
        elif layer.parameters:
            found.append(Place(path, *_fillings(path, layer, order), optional=kind is layers.TiedHead))
        images = kind in IMAGES or (images and kind not in SEQUENCES)
        order = None if kind is layers.Dense else order
        open_conv = (isinstance(layer, layers.Conv) and not layer.bias) or (open_conv and kind in BORROWED)
    return found


def channels_first(shape: Shape) -> np.ndarray:
    """Return, for each number of a flattened row (..., C), its place in PyTorch's flattened (C, ...)."""
    return np.moveaxis(np.arange(math.prod(shape)).reshape(shape[-1], *shape[:-1]), 0, -1).reshape(-1)


IMAGES = (layers.Conv, layers.MaxPool, layers.AveragePool)
SEQUENCES = (layers.Dense, layers.RNN, layers.LSTM, layers.GRU, layers.DotProduct, layers.Embedding, layers.Positions)
"""Layers before which PyTorch has the channels last too."""

COMPOSITES = (layers.Sequential, layers.Residual, layers.Parallel, layers.Recompute, layers.Attention)


def _require_readable(path: str, layer: Layer, images: bool, order: np.ndarray | None) -> None:
    kind = type(layer)
    if layer.children and kind not in COMPOSITES:
        raise ExportError(f"{path}: nothing is known of the order of parameters inside a {kind.__name__}; load weights by hpcml's names")
    if kind is layers.Parallel and any(isinstance(part, (layers.Flatten, layers.Reshape)) for _, part in walk(layer.children)):
        raise ExportError(f"{path}: branches that flatten join in another order in PyTorch; load weights by hpcml's names")
    moved = kind is layers.Reshape and len(layer.out_shape) > 1 and layer.out_shape[-1] != layer.in_shape[-1]
    if moved and (images or order is not None):
        raise ExportError(f"{path}: PyTorch has the channels first, so a Reshape behind a convolution mixes others; load by hpcml's names")


def _fillings(path: str, layer: Layer, order: np.ndarray | None) -> tuple[tuple[str, ...], Callable[[Arrays], Arrays]]:
    """Return which tensors a layer wants, and what makes its parameters of them."""
    own = {key: parameter.name for key, parameter in layer.parameters.items()}
    kind = type(layer)
    if kind is layers.Conv:
        return tuple(own), partial(_conv, own)
    if kind in (layers.RNN, layers.LSTM, layers.GRU):
        return RECURRENT, partial(_recurrent, own)
    if kind not in PLAIN:
        raise ExportError(f"{path}: a {kind.__name__} has no counterpart in PyTorch's state dicts; load weights by hpcml's names")
    return tuple(PLAIN[kind].values()), partial(_plain, own, PLAIN[kind], kind is layers.Dense, order)


PLAIN: dict[type[Layer], dict[str, str]] = {
    layers.Dense: {"weight": "weight", "bias": "bias"},
    layers.Bias: {"bias": "bias"},
    layers.BatchNorm: {"gain": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"},
    layers.LayerNorm: {"gain": "weight", "bias": "bias"},
    layers.RMSNorm: {"gain": "weight"},
    layers.Embedding: {"table": "weight"},
    layers.Positions: {"table": "weight"},
    layers.TiedHead: {"table": "weight"},
}
"""hpcml's name -> PyTorch's, of parameters that are the same but for their order."""


def _plain(own: dict[str, str], names: dict[str, str], dense: bool, order: np.ndarray | None, tensors: Arrays) -> Arrays:
    def turn(key: str, array: np.ndarray) -> np.ndarray:
        inputs = not dense or key == "weight"  # a Dense ends the flattened order: its bias is its outputs'
        if order is not None and inputs and array.shape[-1:] == order.shape:
            array = array[..., order]
        return array.T if dense else array

    return {own[key]: turn(key, tensors[name]) for key, name in names.items()}


def _conv(own: dict[str, str], tensors: Arrays) -> Arrays:
    made = {own[key]: tensors[key] for key in own}
    if tensors["weight"].ndim > 2:
        made[own["weight"]] = np.moveaxis(tensors["weight"], (0, 1), (-1, -2))
    return made


def _recurrent(own: dict[str, str], tensors: Arrays) -> Arrays:
    state, bias = tensors["bias_hh"].copy(), tensors["bias_ih"]
    made = {own["input"]: tensors["weight_ih"].T, own["state"]: tensors["weight_hh"].T}
    if "state_bias" in own:  # of a GRU: it stands inside the product with the reset gate
        kept = len(state) * 2 // 3
        made[own["state_bias"]] = tensors["bias_hh"][kept:]
        state[kept:] = 0
    return made | {own["bias"]: bias + state}


def _with_bias(conv: Place, layer: Layer) -> Place:
    name = layer.parameters["bias"].name
    return Place(conv.path, (*conv.wants, "bias"), lambda tensors: conv.fill(tensors) | {name: tensors["bias"]})


def _modules(tensors: Tensors) -> dict[str, dict[str, str]]:
    """Return module name -> (PyTorch's name of a tensor -> its full name), in the order of the tensors."""
    found: dict[str, dict[str, str]] = {}
    for full in tensors.arrays:
        module, _, name = full.rpartition(".")
        name = name.removeprefix("in_proj_")  # of attention
        stacked = re.fullmatch(r"(.*)_l(\d+)", name)
        if name == "num_batches_tracked":
            continue
        if stacked and stacked[1] in RECURRENT:
            module, name = f"{module}.l{stacked[2]}".lstrip("."), stacked[1]
        elif name not in TENSORS:
            module, name = full, "weight"
        found.setdefault(module, {})[name] = full
    return found


def _in_order(names: list[str], tensors: Tensors) -> list[str]:
    """Return the modules in the order of their use, as far as their names and the order of the state dict tell it."""
    split = [name.split(".") for name in names]
    if not tensors.ordered:
        for parts in split:
            for depth in range(len(parts)):
                beside = {other[depth] for other in split if other[:depth] == parts[:depth] and len(other) > depth}
                if len(beside) > 1 and not all(re.fullmatch(r"l?\d+", part) for part in beside) and not beside <= set(ENCODER):
                    raise ExportError(
                        f"{tensors.told}: a safetensors file does not keep the order of PyTorch's modules; give"
                        f" load_weights(..., modules=[...]) these in the order of the model's layers: {', '.join(names)}"
                    )
        names = sorted(names, key=lambda name: [(int(re.sub(r"\D", "", part) or 0), part) for part in name.split(".")])
    first: dict[str, int] = {}

    def key(name: str) -> tuple[int, int]:
        block, inside = _encoder(name, set(names))
        return (first.setdefault(block, names.index(name)), ENCODER.index(inside)) if inside else (names.index(name), 0)

    return sorted(names, key=key)


def _encoder(name: str, names: set[str]) -> tuple[str, str]:
    """Return the nn.TransformerEncoderLayer that a module is part of and its name there, or twice nothing."""
    for inside in ENCODER:
        block = name.removesuffix(inside)
        if block != name and block[-1:] in ("", ".") and {block + part for part in ENCODER} <= names:
            return block, inside
    return "", ""


def _drawn(wanted: Sequence[Place], order: Sequence[str], modules: dict[str, dict[str, str]]) -> str:
    """Return layers and modules side by side, with a mark where they part."""
    lines = []
    for number in range(max(len(wanted), len(order))):
        place = wanted[number] if number < len(wanted) else None
        name = order[number] if number < len(order) else None
        left = f"{place.path} ({', '.join(place.wants)})" if place else "no layer"
        right = f"{name} ({', '.join(modules[name])})" if name is not None else "no module"
        parted = place is None or name is None or set(place.wants) != set(modules[name])
        lines.append(f"  {left} <- {right}" + ("  <- here" if parted else ""))
    return "\n".join(lines)
