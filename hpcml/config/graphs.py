"""What a captured pass cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.config.keys import Config


def graph_contradictions(config: Config, own_rule: tuple[str, ...]) -> Iterator[str]:
    """Yield what speaks against capturing the passes of a config that asks for it.

    Args:
        config: with any values.
        own_rule: models that learn by a rule of their own.
    """
    if not config.train.graph:
        return
    asked = "train.graph = true"
    if config.run.device == "cpu":
        yield f'{asked} captures what a GPU is given, but run.device is "cpu"; leave it out, or set run.device = "gpu"'
    if config.sync.name != "every-step":
        text = f'{asked} needs passes within which the host reads nothing, and sync.name = "{config.sync.name}" checks each worker\'s'
        yield f'{text}; leave it out, or set sync.name = "every-step"'
    if config.model.synchronised:
        yield f"{asked} captures a worker's pass as a whole, within which model.synchronised = true lets all meet; leave one of them out"
    if config.model.dtype != "float32":
        yield f'{asked} needs the fused steps of float32, but model.dtype is "{config.model.dtype}"; leave it out, or set "float32"'
    if config.model.name in own_rule:
        yield f'{asked} would keep the random numbers and the step of a "{config.model.name}", which its own rule asks for; leave it out'
    if config.model.attention_dropout:
        text = f"{asked} would keep the weights that model.attention_dropout = {config.model.attention_dropout} draws tile by tile"
        yield f"{text}; leave one of them out"
