"""Weights by name, out of a model and into one; all of them fit, or none is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcml.arrays import to_host
from hpcml.errors import ExportError, NumericsError, ShapeError
from hpcml.exporting.files import OWN, Tensors, read_tensors, write_tensors
from hpcml.exporting.modules import Named, misshapen, translated
from hpcml.nn import Model

Source = str | os.PathLike[str] | Mapping[str, Any]


def export_weights(model: Model, path: str | os.PathLike[str], told: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and running statistics to a safetensors file, by the names and in the shapes of its arena.

    Args:
        model: on any device.
        path: of the file, written whole or not at all.
        told: texts for the file's header, beside "format" = "hpcml" and the layout's fingerprint.

    Raises:
        ConfigError: if safetensors is not installed.
        ExportError: if the file cannot be written.
    """
    vector = to_host(model.arena.data)
    tensors = {p.name: np.ascontiguousarray(vector[p.span].reshape(p.shape)) for p in model.arena}
    write_tensors(Path(path), tensors, {**(told or {}), "format": OWN, "layout": model.arena.fingerprint()})


def load_weights(model: Model, source: Source, *, modules: Named = None) -> dict[str, str]:
    """Overwrite a model's parameters and running statistics with weights from outside, rounded to the model's dtype.

    Weights by hpcml's names are taken as they are. Other names are read as a PyTorch state dict of the same architecture: its modules in
    the order in which they were registered go to the layers in their order, and are turned to hpcml's layout.
    A state dict does not tell activations, strides or whether blocks normalise first: these must be alike.

    Args:
        model: the same on every rank; each rank reads for itself.
        source: a .safetensors or .npz file, a .pt, .pth or .bin file with a state dict (imports PyTorch), or a mapping of names to arrays.
        modules: PyTorch's module names, such as ["conv1", "fc1"], in the order of the model's layers that have parameters, or by layer,
            such as {"0.dense": "fc1", "2.dense": "fc2"}; needed where they were registered in another order, or come from a safetensors
            file, which keeps none.

    Returns:
        Name of each of the model's parameters -> names of the tensors that it was made of.

    Raises:
        ConfigError: if the library that reads such a file is not installed.
        ExportError: if the file cannot be read, or names are missing or left over; all are told, and shapes that do not fit.
        ShapeError: if only shapes do not fit; all are told.
        NumericsError: if a number is not finite in the model's dtype.
    """
    if not isinstance(source, (str, os.PathLike, Mapping)):
        raise ExportError(f"weights are read from a file or a mapping of names to arrays, got {source!r}")
    tensors = read_tensors(source if isinstance(source, Mapping) else Path(source))
    names = [p.name for p in model.arena]
    if modules is None and (tensors.own or set(names) & set(tensors.arrays)):
        found, origin = _by_name(model, tensors), dict(zip(names, names, strict=True))
    else:
        found, origin = translated(model, tensors, modules)
    vector = np.empty(model.arena.n, model.arena.dtype)
    with np.errstate(over="ignore"):  # told below
        for p in model.arena:
            vector[p.span] = found[p.name].reshape(-1)
    wrong = [origin[p.name] for p in model.arena if not np.isfinite(vector[p.span]).all()]
    if wrong:
        raise NumericsError(f"{tensors.told}: numbers that are not finite as {model.arena.dtype.name} are in {', '.join(wrong)}")
    model.arena.data[...] = model.arena.device.place(vector)
    return origin


def _by_name(model: Model, tensors: Tensors) -> dict[str, np.ndarray]:
    shapes, arrays = {p.name: p.shape for p in model.arena}, tensors.arrays
    names = [f"missing: {name} {shape}" for name, shape in shapes.items() if name not in arrays]
    names += [f"unexpected: {name} {array.shape}" for name, array in arrays.items() if name not in shapes]
    wrong = misshapen({name: array for name, array in arrays.items() if name in shapes}, model)
    if names or wrong:
        raise (ExportError if names else ShapeError)(
            "\n  ".join([f"{tensors.told}: not the weights of this model; give others, or make [model] what they are of", *names, *wrong])
        )
    return arrays
