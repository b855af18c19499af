"""What products in 16 bits cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.config.keys import Config


def precision_contradictions(config: Config, own_rule: tuple[str, ...]) -> Iterator[str]:
    """Yield what speaks against the precision that a config asks for.

    Args:
        config: with any values.
        own_rule: models that learn by a rule of their own.
    """
    if config.train.precision == "float32":
        return
    asked = f'train.precision = "{config.train.precision}"'
    if config.model.dtype != "float32":
        yield f'{asked} rounds float32 numbers, but model.dtype is "{config.model.dtype}"; set one of them to "float32"'
    if config.train.kernels != "numpy":
        yield f'{asked} means nothing to train.kernels = "{config.train.kernels}", whose products are not rounded; leave one of them out'
    if config.model.name in own_rule:
        yield f'{asked} means nothing to a "{config.model.name}", which learns by a rule of its own; leave it out'
    if config.train.precision == "float16" and config.sync.name != "every-step":
        text = f'{asked} leaves out steps of all workers at once, which sync.name = "{config.sync.name}" cannot'
        yield f'{text}; set train.precision = "bfloat16", or sync.name = "every-step"'
