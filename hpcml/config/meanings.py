"""What every key of a job means: the one place from which `hpcml train --keys` and the table in docs/config.md come."""

from __future__ import annotations

import msgspec

from hpcml.config.keys import Config, as_toml

MEANINGS = {
    "data.train": "glob of the training shards",
    "data.test": "glob of the test shards; left out, no test metrics",
    "data.features": "name of the features in a shard; a list of names is joined into one flat row",
    "data.target": "name of the target in a shard",
    "data.weights": "name of one number a row by which its loss counts; left out, all count alike",
    "data.cf": "`true`: `scale_factor`, `_FillValue` and their like are applied; `false`: numbers as they stand; `refuse`: docs/shards.md",
    "data.fill": "with cf, what fill values become; left out, they are refused with their row",
    "data.sparse": 'names of entries, columns and offsets in the group of a sparse field; left out, `["data", "indices", "indptr"]`',
    "data.ragged": 'names of entries and offsets in the group of a ragged field; left out, `["values", "offsets"]`',
    "data.pad_to": "entries of a sparse or ragged row in memory; 0: as the shape of a sparse field says",
    "data.pad_with": "what stands behind the entries of a ragged row",
    "data.truncate": "leave out entries of ragged rows behind `data.pad_to`; false: longer rows are refused",
    "data.shuffle": "`none`, `block`, `window`, `global`",
    "data.block": "rows that stay together on their way from the file; 0: about 1 MB of whole chunks, at least 32",
    "data.window": "blocks that are held in memory and mixed",
    "data.memory": 'bytes that each virtual worker may hold, such as `"2GB"`: the window is made smaller to fit',
    "data.cache": "`memory`: each rank keeps the rows it has decoded; `node`: the ranks of a node keep them together, each once",
    "data.checksums": "`auto`: rows are held against `manifest.json` where one lies beside their shard; `require`: one must; `off`",
    "data.stage": 'a folder on the node\'s own disk, such as `"$TMPDIR"`, to which shards are copied first',
    "data.threads": "threads that read and decode on each rank",
    "data.on_corrupt": "`stop`; `quarantine`: go on without rows, and then shards, that cannot be read",
    "data.transforms": 'steps such as `[[data.transforms]]` with `name = "standardise"`: see docs/shards.md',
    "model.name": "`mlp`, `softmax`, `logistic`, `linear`, `svm`, `lenet`, `resnet`, `autoencoder`, `lstm`, `transformer`,"
    " `rbm`, `som`, `hopfield`: docs/models.md",
    "model.hidden": "units of each hidden layer: `mlp`, `lenet`, `autoencoder` (the narrow one last); widths of `lstm`; units of `rbm`",
    "model.shape": "what each row is read as, such as `[8, 8, 1]`: `lenet`, `resnet`, `lstm`; left out, its shape in the shards",
    "model.channels": "channels of each convolution of `lenet`, of each stage of `resnet`",
    "model.blocks": "residual blocks in each stage of `resnet`",
    "model.synchronised": "`resnet`: batch norm over the rows of all workers at each step, instead of each worker's; with `every-step`",
    "model.outputs": "0: as many as the training target has classes, or columns",
    "model.layers": "`transformer`: blocks of attention and perceptron",
    "model.width": "`transformer`: numbers of a token's vector",
    "model.heads": "`transformer`: heads of the attention, a divisor of the width",
    "model.context": "`transformer`: tokens that it sees; 0: all of a row but the last",
    "model.vocabulary": "`transformer`: tokens are 0 to vocabulary - 1; 256 for bytes",
    "model.dropout": "`transformer`: probability at the end of each branch",
    "model.attention_dropout": "`transformer`: probability with which training drops a weight of the attention",
    "model.rotary": "`transformer`: positions by turning queries and keys, instead of learned vectors",
    "model.recompute": "`transformer`: make a block's activations again in backward, to save memory",
    "model.ngrams": "`transformer`: lengths n, such as `[2, 3, 4, 5]`, of which the last n tokens are hashed to a learned vector",
    "model.buckets": "`transformer`: vectors that the n-grams of one length share",
    "model.recall": "`transformer`: lengths n, such as `[3, 5, 8]`: what followed the last n tokens when they last came in the row",
    "model.steps": "`rbm`: Gibbs steps of contrastive divergence; `hopfield`: sweeps of a recall",
    "model.highest": "`rbm`, `hopfield`: the number that means on; features lie between 0 and it",
    "model.grid": "`som`: units along each axis, such as `[10, 10]`",
    "model.radius": "`som`: of the neighbourhood at the first step, in units of the grid; 0: half the longest side",
    "model.halving": "`som`: steps in which the radius halves, down to 0.5",
    "model.kept": "`som`: part of the neighbourhood sums that a step keeps; 0: the batch rule",
    "model.weights": "a `.safetensors`, `.npz` or `.pt` file that the first weights come from, of the same architecture;"
    " a resumed run does not read it",
    "model.modules": "of PyTorch's weights where order or names tell nothing: its modules in the order of the layers, or by layer,"
    ' such as `{"0.dense" = "fc1"}`',
    "model.dtype": "`float32`, `float64`",
    "train.epochs": "passes over the training rows",
    "train.batch": "rows of the global batch, whatever the number of ranks",
    "train.virtual_workers": "V; 0: the number of ranks at the first start, which the checkpoint remembers",
    "train.exact": "one fixed tree of sums; false: any road",
    "train.seed": "of the first weights and the order of the rows",
    "train.micro_batch": "rows of a worker that go through the model at a time, to save memory; 0: all",
    "train.kernels": "steps of layers on the CPU: `numpy`, or `fast`: fused by numba, the extra of that name; see docs/models.md",
    "train.precision": "to what operands of products are rounded in training: `float32`, `bfloat16`, `float16`; see docs/models.md",
    "train.graph": "on a GPU, launch each worker's pass as one CUDA graph; the numbers stay: docs/gpu.md",
    "train.loss": "`auto`, `softmax-cross-entropy`, `binary-cross-entropy`, `squared-error`, `huber`, `hinge`, `contrastive`,"
    " `token-cross-entropy`",
    "train.label_smoothing": "cross-entropies: the share of a target that is spread over all classes",
    "train.class_weights": "cross-entropies: by how much each class counts, one number a class",
    "train.delta": "`huber`: differences up to this are squared",
    "train.margin": "`hinge`, `contrastive`",
    "optimizer.name": "`sgd`, `adamw`, `lars`, `lamb`, `adagrad`",
    "optimizer.rate": "learning rate",
    "optimizer.momentum": "sgd, lars",
    "optimizer.nesterov": "sgd",
    "optimizer.decay": "weight decay: added to the gradient (sgd, lars, adagrad), decoupled (adamw, lamb)",
    "optimizer.beta1": "adamw, lamb",
    "optimizer.beta2": "adamw, lamb",
    "optimizer.epsilon": "adamw, lamb, adagrad",
    "optimizer.trust": "lars",
    "optimizer.clip": "largest global norm of a gradient; 0: no clipping",
    "rate.name": "`constant`, `step`, `cosine`",
    "rate.warmup_epochs": "epochs over which the rate climbs in a line",
    "rate.step_epochs": "`step`: epochs between two falls",
    "rate.factor": "`step`: what a fall multiplies by",
    "rate.floor": "`cosine`: the rate at the end",
    "rate.base_batch": "linear scaling: the batch that `optimizer.rate` was found for; 0: no scaling; the result is printed",
    "rate.recipe": "`large-batch`: LARS or LAMB, warm-up and cosine where left open, each printed",
    "sync.name": "`every-step`, `local-steps`, `elastic`, `gossip`, `push-sum`, `delayed`, `ensemble`, `parameter-server`, `downpour`,"
    " `async-easgd`, `gossip-learning`, `lbfgs`: see docs/strategies.md",
    "sync.every": "steps between two meetings of workers that have models of their own",
    "sync.schedule": "`local-steps`: `fixed`, `adaptive` (more often as the loss falls), `once` (at the end)",
    "sync.warm_epochs": "epochs of `every-step` before the strategy begins",
    "sync.outer": "`local-steps`: what becomes of the average: `average`, `block-momentum`, `slow-momentum`, `sgd`, `adamw`",
    "sync.outer_rate": "its rate, or gain",
    "sync.outer_momentum": "its momentum; `auto`: 1 - 1/V for `block-momentum`, 0.5 for `slow-momentum`, 0.9 for `sgd`",
    "sync.outer_nesterov": "whether `block-momentum` and `sgd` look ahead",
    "sync.groups": "`elastic`: groups that are synchronous inside; 0: one a worker",
    "sync.moving": "`elastic`: the part of the way that the centre goes to the models' mean",
    "sync.losses": "`elastic`: `[[step, group], ...]`, groups that take no part from a step on, as a run did that lost them",
    "sync.topology": "who mixes with whom: `ring`, `torus`, `exponential`, `one-peer`, `pairs`, `complete`, `directed-ring`, `matrix`",
    "sync.matrix": "`matrix`: a row of weights a worker",
    "sync.earlier": "`gossip`: mix the models of the last round and add the steps since (D-PSGD)",
    "sync.spare": "k backup workers, the last k to come are dropped at every step and their rows counted:"
    " `every-step` draws who, `parameter-server` with `bsp` lets them race",
    "sync.slow": "with spare: workers that come last at every step; the others come in a drawn order",
    "sync.arrivals": "with spare: a file with the order of each step, a list such as `[2, 0, 1]` a line",
    "sync.combine": "`ensemble`, and the caches of `gossip-learning`: how predictions become one: `mean`,"
    " `vote`, `best` (by cross-validation), `stack`",
    "sync.memory": "`lbfgs`: pairs of steps and gradient changes that are kept",
    "sync.reducer": "`auto`, `tree`, `all-reduce`, `ring`, `halving`, `double-tree`, `binary-tree`, `doubling`, `two-level`, `lanes`",
    "server.consistency": "`tap`, `bap`, `ssp`, `asp`, `bsp`: how far workers of a server may run apart",
    "server.bound": "`ssp`, `asp`: clocks that a worker may be ahead of the slowest",
    "server.threshold": "`asp`: updates below threshold / sqrt(clock) of their value are kept back and added up",
    "server.regions": "`asp`: regions of workers and shards, between which links are slow, filtered and counted; 0: every link is slow",
    "server.inside": "`asp`: clocks that a worker may be ahead of the slowest of its region; -1: as far as `server.bound` lets it",
    "server.ranks": 'ranks that serve and do not compute, 1 or more; `"all"`: every rank both serves and computes',
    "server.groups": "groups of workers that add their gradients up and write as one; 0: every worker writes for itself",
    "server.stealing": "a worker whose rows of an epoch are used up, or that the bound holds, takes over others'",
    "server.compensation": "lambda by which a late gradient is corrected for the way the parameters went meanwhile (DC-ASGD); 0: none",
    "server.warm": "steps that the first worker takes alone when the run begins",
    "server.fetch": "`downpour`: steps between two reads",
    "server.push": "`downpour`: steps between two writes",
    "server.beta": "`async-easgd`: how strongly workers and centre are drawn together",
    "server.cache": "`gossip-learning`: last models of each worker that predict together, as `sync.combine` says;"
    " 0: the mean model predicts",
    "server.replay": "folder of a run whose order of arrival is followed, bit for bit",
    "run.device": "`auto`, `cpu`, `gpu`",
    "run.device_road": "how GPUs' arrays travel: `auto` (the fastest a probe found right), `direct`, `staged`, `nccl`; see docs/gpu.md",
    "run.threads": "BLAS threads a rank; 0: 1 where exact, else the rank's share of the node's cores",
    "run.checkpoint_every": "steps between checkpoints; 0: after each epoch only",
    "run.keep": "checkpoints that stay",
    "run.log_every": "steps between rows in `metrics.jsonl`; 0: none",
    "run.survive": "when a rank dies, go on without its group (`elastic`), or with its workers on other ranks (with a server);"
    " needs Open MPI and `mpirun --with-ft ulfm`",
}
"""section.key -> meaning, in Markdown, in the order of the classes."""


def key_rows() -> list[tuple[str, str, str]]:
    """Return (section.key, default as TOML writes it, meaning) for every key; the default of a key that must be given is ""."""
    found = []
    for section in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(section.type):
            default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
            name = f"{section.name}.{field.name}"
            found.append((name, "" if default is msgspec.NODEFAULT else as_toml(default), MEANINGS[name]))
    return found


def keys_text() -> str:
    """Return all keys as text for a terminal, one a line."""
    return "".join(f"{name:24} {default or 'needed':18} {meaning.replace('`', '')}\n" for name, default, meaning in key_rows())


def keys_table() -> str:
    """Return all keys as the Markdown table of docs/config.md."""
    rows = "".join(f"| `{name}` | {f'`{default}`' if default else 'needed'} | {meaning} |\n" for name, default, meaning in key_rows())
    return f"| key | default | meaning |\n|---|---|---|\n{rows}"
