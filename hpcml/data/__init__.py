"""From HDF5 shards to batches: the layout, the row space, the order, and reading ahead."""

from hpcml.data.dataset import ShardedDataset, open_shards
from hpcml.data.index import Field, Index, Shard
from hpcml.data.loader import Batch, Loader
from hpcml.data.sampler import Sampler
from hpcml.data.shards import find_shards, index_shards
from hpcml.data.writer import RowWriter

__all__ = [
    "Batch",
    "Field",
    "Index",
    "Loader",
    "RowWriter",
    "Sampler",
    "Shard",
    "ShardedDataset",
    "find_shards",
    "index_shards",
    "open_shards",
]
