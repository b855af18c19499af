"""PyTorch's state dicts in hpcml's layout: which module gives which layer its parameters, and how they are turned.

Letters: d inputs, k outputs, C channels, g groups. PyTorch keeps (k, d) and (k, C / g, size...), hpcml (d, k) and (size..., C / g, k).
PyTorch flattens images channels first, hpcml channels last: what stands between a Flatten and the next Dense changes its order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from hpcml.errors import ExportError, HpcmlError, ShapeError
from hpcml.exporting.files import Tensors
from hpcml.nn import Model, layers
from hpcml.nn.layers.chain import numbered, walk
from hpcml.nn.layers.layer import Layer, Shape

Arrays = dict[str, np.ndarray]
Named = Sequence[str] | Mapping[str, str] | None
"""PyTorch's modules in the order of the layers, or by the paths of the layers; None: in the order of the state dict."""

HINT = """where order or names alone differ, say which module goes where: modules = ["conv1", ...] or {"0.conv" = "conv1", ...}"""

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


def translated(model: Model, tensors: Tensors, names: Named) -> tuple[Arrays, dict[str, str]]:
    """Return arrays by the arena's names, and the tensors that each was made of.

    Raises:
        ExportError: if the modules are not those of the model's layers, or their order is not known; all are drawn side by side.
        ShapeError: if only shapes do not fit; all are drawn too.
    """
    modules = _modules(tensors)
    found: Arrays = {}
    origin: dict[str, str] = {}
    drawn, errors = [f"{tensors.told}: not the modules of this model's layers"], set[type[HpcmlError]]()
    for place, name in _paired(places(model), modules, tensors, names):
        drawn.append(_line(place, name, modules))
        if place is None or name is None or set(place.wants) != set(modules[name]):
            drawn[-1] += "  <- here"
            errors.add(ExportError)
            continue
        made = place.fill({key: tensors.arrays[full] for key, full in modules[name].items()})
        if misfits := misshapen(made, model):
            drawn += [f"  {misfit}  <- here" for misfit in misfits]
            errors.add(ShapeError)
        for target, array in made.items():
            if target in found and not np.array_equal(found[target], array):
                raise ExportError(f"{tensors.told}: {name} differs from {origin[target]}; this model's {place.path} shares its numbers")
            found[target] = array
            origin[target] = " + ".join(modules[name][key] for key in place.wants)
    if errors:
        raise (ExportError if ExportError in errors else ShapeError)("\n  ".join([*drawn, HINT]))
    return found, origin


def misshapen(arrays: Arrays, model: Model) -> list[str]:
    """Return a line for each array that has another shape than the model's parameter of its name."""
    return [
        f"{name} has shape {model.arena.view(name).shape}, the weights give {array.shape}"
        for name, array in arrays.items()
        if array.shape != model.arena.view(name).shape
    ]


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
    if state.shape != bias.shape:
        raise ShapeError(f"{own['bias']}: PyTorch's bias_ih and bias_hh are of one shape, these are {bias.shape} and {state.shape}")
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


def _paired(wanted: list[Place], modules: Mapping[str, Any], tensors: Tensors, names: Named) -> list[tuple[Place | None, str | None]]:
    """Return which module goes to which place; None where there is none.

    Raises:
        ExportError: for names of modules or layers that are not there, or modules that are not named.
    """
    order = list(names.values() if isinstance(names, Mapping) else names or _in_order(list(modules), tensors))
    paths = [place.path for place in wanted]
    wrong = [f"there is no layer {path!r}" for path in names if path not in paths] if isinstance(names, Mapping) else []
    wrong += [f"there is no module {name!r}" for name in order if name not in modules]
    wrong += [f"the module {name!r} is not named" for name in modules if name not in order]
    if wrong:
        told = f"the model's layers are {', '.join(paths)}; the modules {', '.join(modules)}"
        raise ExportError(f"{tensors.told}: {'; '.join(wrong)}; {told}")
    if isinstance(names, Mapping):
        return [(place, names.get(place.path)) for place in wanted if place.path in names or not place.optional]
    if len(order) == len(wanted) - 1 and wanted[-1].optional:
        wanted = wanted[:-1]
    return list(zip_longest(wanted, order))


def _in_order(names: list[str], tensors: Tensors) -> list[str]:
    """Return the modules in the order of their use, as far as their names and the order of the state dict tell it."""
    split = [name.split(".") for name in names]
    if not tensors.ordered:
        for parts in split:
            for depth in range(len(parts)):
                beside = {other[depth] for other in split if other[:depth] == parts[:depth] and len(other) > depth}
                if len(beside) > 1 and not all(re.fullmatch(r"l?\d+", part) for part in beside) and not beside <= set(ENCODER):
                    raise ExportError(
                        f"{tensors.told}: a safetensors file does not keep the order of PyTorch's modules; give modules"
                        f" (model.modules in a job): these, in the order of the model's layers: {', '.join(names)}"
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


def _line(place: Place | None, name: str | None, modules: dict[str, dict[str, str]]) -> str:
    """Return a layer and a module side by side."""
    left = f"{place.path} ({', '.join(place.wants)})" if place else "no layer"
    right = f"{name} ({', '.join(modules[name])})" if name is not None else "no module"
    return f"{left} <- {right}"
