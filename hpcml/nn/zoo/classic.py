"""Models that learn by rules of their own: the loss reports, and does not steer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcml.nn.layers import Hopfield, RestrictedBoltzmann, SelfOrganisingMap
from hpcml.nn.model import Model
from hpcml.nn.zoo.dense import flat


def rbm(inputs: int | tuple[int, ...], hidden: int, steps: int = 1, highest: float = 1.0, **options: Any) -> Model:
    """Return a restricted Boltzmann machine of `hidden` units, trained by contrastive divergence of `steps` Gibbs steps.

    Its outputs are reconstructions, so the target is the row itself. Arguments are those of RestrictedBoltzmann and of Model.
    """
    shape, first = flat(inputs)
    return Model([*first, RestrictedBoltzmann(hidden, steps, highest)], shape, **options)


def som(
    inputs: int | tuple[int, ...], grid: Sequence[int], radius: float = 0.0, halving: int = 20, kept: float = 0.0, **options: Any
) -> Model:
    """Return a self-organising map of units on a grid, trained by the batch rule.

    Its outputs are the places of the nearest units, so the target is the row itself. Arguments are those of SelfOrganisingMap and of Model.
    """
    shape, first = flat(inputs)
    return Model([*first, SelfOrganisingMap(grid, radius, halving, kept)], shape, **options)


def hopfield(inputs: int | tuple[int, ...], sweeps: int = 1, highest: float = 1.0, **options: Any) -> Model:
    """Return a Hopfield network, which recalls a pattern from what is left of it, trained by the Hebb rule.

    Its outputs are what it recalls, so the target is the row itself. Arguments are those of Hopfield and of Model.
    """
    shape, first = flat(inputs)
    return Model([*first, Hopfield(sweeps, highest)], shape, **options)
