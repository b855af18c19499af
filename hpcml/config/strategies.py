"""What must hold for strategies with a server, and for L-BFGS."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hpcml.config.keys import Config, ServerConfig, as_toml

WITH_SERVER = {
    "parameter-server": ("fetch", "push", "beta", "cache"),
    "downpour": ("compensation", "beta", "cache"),
    "async-easgd": ("compensation", "warm", "fetch", "push", "cache"),
    "gossip-learning": tuple(key for key in msgspec.to_builtins(ServerConfig()) if key not in ("stealing", "replay", "cache")),
}
"""Synchronisers with a server, and the keys of [server] that mean nothing to each."""

_BY_CONSISTENCY = {"bound": ("ssp", "asp"), "threshold": ("asp",), "regions": ("asp",), "inside": ("asp",)}
"""Keys of [server] that mean something under some consistencies alone."""


def server_contradictions(config: Config) -> Iterator[str]:
    """Yield keys of [server], or of a run with one, that mean nothing to its strategy."""
    keys, defaults, name = msgspec.to_builtins(config.server), msgspec.to_builtins(ServerConfig()), config.sync.name
    unused = WITH_SERVER.get(name, tuple(keys))
    for key, value in keys.items():
        default = f"leave it out, or set it to {as_toml(defaults[key])}"
        if key in unused and value != defaults[key]:
            others = [other for other, not_for in WITH_SERVER.items() if key not in not_for]
            yield f'server.{key} means nothing to sync.name = "{name}", but to {", ".join(others)}; {default}'
        if key in _BY_CONSISTENCY and value != defaults[key] and keys["consistency"] not in _BY_CONSISTENCY[key]:
            yield f'server.{key} means nothing to "{keys["consistency"]}"; {default}'
    if name == "gossip-learning" and config.sync.combine != "mean" and not config.server.cache:
        yield f'sync.combine = "{config.sync.combine}" combines the models of caches; set server.cache, such as 10, or leave it out'
    if name in WITH_SERVER and config.run.checkpoint_every:
        yield f'run.checkpoint_every: with sync.name = "{name}" letters are on their way within an epoch; set it to 0: after each epoch'
    if name in WITH_SERVER and config.sync.reducer != "auto":
        yield f'sync.reducer = "{config.sync.reducer}" means nothing to "{name}", whose workers add nothing up; leave it out'


def full_batch_contradictions(config: Config) -> Iterator[str]:
    """Yield what keeps L-BFGS from seeing one function of all rows at each pass."""
    own = "L-BFGS finds its own directions and steps over all rows"
    if config.optimizer.name != "sgd" or config.optimizer.momentum or config.optimizer.clip:
        text = "optimizer.rate is the length of its first step, optimizer.decay the L2 penalty"
        yield f'{own}: {text}; set optimizer.name = "sgd", momentum = 0.0 and clip = 0.0'
    if config.rate.name != "constant" or config.rate.warmup_epochs or config.rate.base_batch:
        yield f'{own}; leave [rate] out, or set rate.name = "constant", warmup_epochs = 0 and base_batch = 0'
    for key in ("dropout", "attention_dropout"):
        if getattr(config.model, key):
            yield f"{own}, and model.{key} makes the loss another function at each pass; set it to 0"
    if config.data.on_corrupt != "stop":
        yield f'{own}, and data.on_corrupt = "{config.data.on_corrupt}" may leave some out between two passes; set it to "stop"'
