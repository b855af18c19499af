"""What must fit together before a run starts, and what makes two runs the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcml.comm.communicator import everywhere
from hpcml.data import ShardedDataset
from hpcml.errors import ConfigError, DataError, ShapeError
from hpcml.nn import LOSSES, Dropout, Loss, Model
from hpcml.nn.layers.chain import numbered, walk
from hpcml.sync import Plan
from hpcml.sync.server import OwnPacePlan
from hpcml.train.lockstep import exchanging

if TYPE_CHECKING:
    from hpcml.train.trainer import Trainer


def require_hosts(workers: int, ranks: int) -> None:
    """Raise ConfigError on every rank if there are more ranks than virtual workers."""
    if workers < 1:
        raise everywhere(ConfigError(f"train.virtual_workers is {workers}; there must be at least 1"))
    if ranks > workers:
        text = f"{ranks} ranks for {workers} virtual workers: a rank must host at least one"
        raise everywhere(ConfigError(f"{text}; start at most {workers} ranks, or start a new run with train.virtual_workers = {ranks}"))


def require_fit(model: Model, loss: Loss, data: ShardedDataset) -> None:
    """Raise ShapeError or DataError unless model, loss and data fit together, and the model's gradients can be summed truly."""
    if not isinstance(loss, Loss):
        makes = (
            f"it makes a loss: write {loss.__name__}()" if callable(loss) and hasattr(loss, "__name__") else f"choose {', '.join(LOSSES)}"
        )
        raise ShapeError(f"a run's loss is {loss!r}, not a loss of hpcml.nn; {makes}")
    if model.arena.dtype.itemsize < 4:
        raise ShapeError(
            f"the model's parameters are {model.arena.dtype}, whose sums over workers would be rounded at each addition; "
            "build it with dtype float32 or float64"
        )
    if data.y is None:
        raise DataError("training needs a target; open the shards with target=...")
    if tuple(data.x.shape) != model.shape:
        raise ShapeError(f"the data's rows have shape {tuple(data.x.shape)}, the model takes {model.shape}")
    require_whole_targets(loss, data)
    wanted = _targets(model, loss)
    if math.prod(data.y.shape) not in wanted:
        kind = "one class" if wanted == (1,) and loss.integer_target else f"the model gives {' or '.join(map(str, wanted))} numbers"
        given_back = loss.each_position or math.prod(model.outputs) == math.prod(model.shape)
        hint = "; or name the features as target, where they are what is to be predicted" if given_back else ""
        raise ShapeError(
            f"{loss.name}: {kind} a row, field {data.y.name!r} has rows of shape {data.y.shape}; give the model as many outputs{hint}"
        )
    dtype = np.int64 if loss.integer_target else model.arena.dtype
    loss(np.zeros((1, *model.outputs), model.arena.dtype), np.zeros((1, *data.y.shape), dtype))  # what it takes, it says itself


def _targets(model: Model, loss: Loss) -> tuple[int, ...]:
    """Return how many numbers a row's target may have."""
    if loss.each_position:
        if len(model.outputs) != 2:
            raise ShapeError(f"{loss.name} takes outputs (positions, classes) a row, the model gives {model.outputs}; use a transformer")
        return model.outputs[0], model.outputs[0] + 1
    return (1,) if loss.integer_target else (math.prod(model.outputs),)


def require_whole_targets(loss: Loss, data: ShardedDataset) -> None:
    """Raise DataError if the loss takes classes and the target is stored as other than whole numbers."""
    if loss.integer_target and data.y is not None and np.dtype(data.y.dtype).kind not in "iub":
        text = f"{loss.name} takes classes, stored as whole numbers, as target; field {data.y.name!r} is {data.y.dtype}"
        raise DataError(f"{text}; write the shards with whole numbers, or take a loss between numbers, such as squared-error")


def identify(trainer: Trainer, sync: Plan | OwnPacePlan, sampling: dict[str, Any]) -> dict[str, str]:
    """Return in plain words everything that decides the bits of a run; a resumed run must have the same."""
    return {
        "parameter layout": f"{trainer.model.arena.fingerprint()} of {trainer.model.describe()}",
        "loss": f"{trainer.loss.name}({trainer.loss.options})" if trainer.loss.options else trainer.loss.name,
        "optimizer": repr(trainer.optimizer),
        "synchroniser": repr(sync),
        "training data": trainer.data.index.fingerprint(),
        "global batch": str(trainer.sampler.batch),
        "virtual workers": str(trainer.workers),
        "seed": str(trainer.sampler.seed),
        "sampling": repr(dict(sorted(sampling.items()))),
        **({"micro-batch": str(trainer.differentiator.micro_batch)} if trainer.differentiator.micro_batch else {}),
        **({} if trainer.model.context.fast is None else {"kernels": "fast"}),
        **({"batch statistics": "of all workers"} if exchanging(trainer.model) else {}),
        **({"dropout": dropped} if (dropped := _dropped(trainer.model)) else {}),
        **({} if trainer.model.context.precision is None else {"precision": repr(trainer.model.context.precision)}),
        **({} if trainer.data.transforms is None else {"transforms": repr(trainer.data.transforms)}),
    }


def _dropped(model: Model) -> str:
    """Return which layers drop with which probability, as far as any does."""
    layers = ((path.rstrip("."), layer) for path, layer in walk(numbered(model.layers)))
    parts = ((path, getattr(layer, "probability" if isinstance(layer, Dropout) else "dropout", 0)) for path, layer in layers)
    return ", ".join(f"{path} {probability}" for path, probability in parts if probability)
