"""A job in one typed file: TOML in, `--set a.b=c` on top, every key with a default, unknown keys refused with the near one."""

from hpcml.config.keys import Config, DataConfig, SyncConfig, TransformConfig
from hpcml.config.load import load, load_run

__all__ = ["Config", "DataConfig", "SyncConfig", "TransformConfig", "load", "load_run"]
