"""Presets: what a user left open becomes what the field does, and every change is told."""

from __future__ import annotations

from typing import Any

import msgspec

from hpcml.config.keys import Config, OptimizerConfig, RateConfig, as_toml

WARM_EPOCHS, WARM_SHARE = 5.0, 0.25
"""The rate climbs over this many epochs, but no more than this share of the run."""

BY_ARRAY = {"sgd": "lars", "adamw": "lamb"}
"""Optimizers whose rate for each parameter array is in proportion to its norm, by the one that they are made from."""


def apply_recipe(config: Config) -> tuple[Config, list[str]]:
    """Return the config with its recipe carried out, and a line for each key that it changed.

    The recipe for large batches: the rate scaled with the batch (rate.base_batch does that), a warm-up, a cosine, and LARS instead of
    SGD, LAMB instead of Adam. Other keys that are not at their defaults stay; done twice it changes nothing more.

    References:
        Goyal et al., Accurate, large minibatch SGD, 2017; You, Gitman and Ginsburg, Large batch training of convolutional networks, 2017.
    """
    if config.rate.recipe == "none":
        return config, []
    notes: list[str] = []
    name = config.optimizer.name if config.optimizer.nesterov else BY_ARRAY.get(config.optimizer.name, config.optimizer.name)
    optimizer = _set("optimizer", config.optimizer, {"name": name}, notes)
    if name == "lars":
        optimizer = _fill("optimizer", optimizer, OptimizerConfig(), {"momentum": 0.9}, notes)
    warm = min(WARM_EPOCHS, WARM_SHARE * config.train.epochs)
    rate = _fill("rate", config.rate, RateConfig(), {"name": "cosine", "warmup_epochs": warm}, notes)
    return msgspec.structs.replace(config, optimizer=optimizer, rate=rate), notes


def _fill(section: str, keys: Any, defaults: Any, wanted: dict[str, Any], notes: list[str]) -> Any:
    """Return the section with those keys set that are still at their defaults."""
    return _set(section, keys, {key: value for key, value in wanted.items() if getattr(keys, key) == getattr(defaults, key)}, notes)


def _set(section: str, keys: Any, wanted: dict[str, Any], notes: list[str]) -> Any:
    """Return the section with these keys set, and tell those that change."""
    for key, value in wanted.items():
        if getattr(keys, key) != value:
            notes.append(f"recipe for large batches: {section}.{key} = {as_toml(value)} (was {as_toml(getattr(keys, key))})")
    return msgspec.structs.replace(keys, **wanted)
