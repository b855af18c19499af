"""What must hold where groups of workers may be lost, or were."""

from __future__ import annotations

from collections.abc import Iterator

from hpcml.config.keys import Config
from hpcml.config.strategies import WITH_SERVER


def loss_contradictions(config: Config) -> Iterator[str]:
    """Yield what keeps a run from going on without groups: those that sync.losses names, or that run.survive may lose."""
    if not config.sync.losses and not config.run.survive:
        return
    key = "run.survive" if config.run.survive else "sync.losses"
    if config.run.survive and not config.sync.losses and config.sync.name in WITH_SERVER:
        return
    if config.sync.name != "elastic":
        text = f'sync.name = "{config.sync.name}" has no groups that could do without each other'
        yield f'{key}: {text}; choose "elastic" with sync.groups, or a parameter server, or leave it out: --resume goes on after a loss'
    if any(len(pair) != 2 for pair in config.sync.losses):
        yield f"sync.losses is {config.sync.losses}; give a list of [step, group], as a run's summary.json tells them"
    if config.sync.warm_epochs:
        yield f"{key}: groups can be lost where there are groups from the first step on; leave sync.warm_epochs out"
    if config.data.on_corrupt != "stop":
        text = f'rows are counted as lost or, with data.on_corrupt = "{config.data.on_corrupt}", as left out, not both'
        yield f'{key}: {text}; set that to "stop"'
