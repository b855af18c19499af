"""A job's TOML file and its changes become a Config; unknown keys are refused with the near one."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from hpcml.config.keys import Config, TransformConfig
from hpcml.config.limits import require_ranges
from hpcml.errors import ConfigError


def load(path: str | Path, changes: Sequence[str] = ()) -> Config:
    """Return the config in a TOML file with changes such as "train.epochs=5" laid over it.

    Raises:
        ConfigError: naming the file and the key: unreadable, not TOML, unknown, of a wrong type, out of range.
    """
    return _load(path, changes, {})


def load_run(folder: Path) -> Config:
    """Return the config of a run's folder; what earlier versions wrote there in other words is understood.

    Raises:
        ConfigError: as `load` does.
    """
    # "all" was written as 0 before that was refused in a job.
    return _load(folder / "config.toml", (), {("server", "ranks", 0): "all"})


def _load(path: str | Path, changes: Sequence[str], renamed: Mapping[tuple[str, str, Any], Any]) -> Config:
    try:
        tree = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a job's TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for change in changes:
        _change(tree, change)
    _refuse_unknown(tree, str(path))
    for (section, key, value), today in renamed.items():
        if tree.get(section, {}).get(key) == value:
            tree[section][key] = today
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_readable(error)}{_near_choice(error, tree)}") from error
    require_ranges(config, str(path))
    return config


def _change(tree: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {change}: expected section.key=value, such as --set train.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string, so that no shell needs nested quotes
    part = tree.setdefault(section, {})
    if not isinstance(part, dict):
        raise ConfigError(f"--set {change}: {section!r} is not a section in the file")
    part[key] = value


def _refuse_unknown(tree: Mapping[str, Any], path: str) -> None:
    sections = {field.name: field.type for field in msgspec.structs.fields(Config)}
    for section, keys in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: unknown section [{section}]{_near(section, _all_names())}")
        if not isinstance(keys, dict):
            raise ConfigError(f"{path}: {section} must be a section, [{section}] with keys under it; got {keys!r}")
        known = [field.name for field in msgspec.structs.fields(sections[section])]
        for key in keys:
            if key not in known:
                elsewhere = [f"{other}.{key}" for other, names in _sections().items() if key in names]
                near = _same(key) or _near(f"{section}.{key}", elsewhere) or _near(key, known) or _near(f"{section}.{key}", _all_names())
                raise ConfigError(f"{path}: unknown key {section}.{key}{near}; [{section}] has {', '.join(known)}")


SYNONYMS = {
    **dict.fromkeys(("staleness", "staleness_bound", "max_staleness", "slack"), "server.bound"),
    **dict.fromkeys(("servers", "server_count", "num_servers"), "server.ranks"),
    **dict.fromkeys(("workers", "num_workers"), "train.virtual_workers"),
    **dict.fromkeys(("lr", "learning_rate"), "optimizer.rate"),
    "weight_decay": "optimizer.decay",
    "backup": "sync.spare",
}
"""Keys by the names that they have elsewhere."""


def _same(key: str) -> str:
    return f"; did you mean {SYNONYMS[key]!r}?" if key in SYNONYMS else ""


def _near(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _all_names() -> list[str]:
    return list(_sections()) + [f"{section}.{field}" for section, fields in _sections().items() for field in fields]


def _sections() -> dict[str, list[str]]:
    return {f.name: [key.name for key in msgspec.structs.fields(f.type)] for f in msgspec.structs.fields(Config)}


def _readable(error: msgspec.ValidationError) -> str:
    """Return msgspec's message with its path "$.train.epochs" put first as "train.epochs"."""
    text, _, where = str(error).partition(" - at ")
    key = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{key}: {text[:1].lower()}{text[1:]}" if key else text


def _near_choice(error: msgspec.ValidationError, tree: Mapping[str, Any]) -> str:
    """Return what may stand at a key that takes one of several words, the near one first."""
    section, _, key = str(error).partition(" - at ")[2].strip("`").removeprefix("$.").partition(".")
    step = re.fullmatch(r"transforms\[(\d+)\]\.(\w+)", key)
    holder, given = {f.name: f.type for f in msgspec.structs.fields(Config)}.get(section), tree.get(section, {})
    if step:
        holder, given, key = TransformConfig, given["transforms"][int(step[1])], step[2]
    types = {f.name: f.type for f in msgspec.structs.fields(holder)} if holder else {}
    parts, word = get_args(types.get(key, str)), given.get(key)
    choices = [choice for part in parts for choice in (part, *get_args(part)) if isinstance(choice, str)]
    number = " or a number" if any(part in (int, float) for part in parts) else ""
    return f"{_near(word, choices)}; it is one of {', '.join(choices)}{number}" if choices and isinstance(word, str) else ""
