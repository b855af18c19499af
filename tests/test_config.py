"""The typed config: every key has a place, a type and a range; what is written is what is read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.cli.main import main
from hpcml.config import Config, DataConfig, load, load_run
from hpcml.config.load import SYNONYMS
from hpcml.config.meanings import MEANINGS, keys_table
from hpcml.config.recipes import apply_recipe
from hpcml.errors import ConfigError

SMALL = '[data]\ntrain = "a-*.h5"\n'


@pytest.fixture
def written(tmp_path):
    """Write TOML to a file and load it with changes."""

    def write(text=SMALL, *changes):
        path = tmp_path / "job.toml"
        path.write_text(text)
        return load(path, changes)

    return write


def test_every_key_has_a_default_but_the_training_data():
    config = Config(DataConfig(train="x"))
    assert config.train.exact
    assert config.sync.name == "every-step"
    with pytest.raises(TypeError):
        DataConfig()


def test_a_change_lies_over_the_file(written):
    config = written(SMALL + "[train]\nepochs = 3\n", "train.epochs=5", "train.epochs = 6", "sync.name=local-steps", "model.hidden=[3, 4]")
    assert config.train.epochs == 6
    assert config.sync.name == "local-steps"
    assert config.model.hidden == [3, 4]


def test_a_bare_word_and_a_quoted_one_are_the_same_string(written):
    assert written(SMALL, "data.test=b c.h5").data.test == written(SMALL, 'data.test="b c.h5"').data.test == "b c.h5"


def test_a_whole_number_is_a_rate_too(written):
    assert written(SMALL, "optimizer.rate=1").optimizer.rate == 1.0


text = st.text(st.characters(codec="utf-8"), max_size=12)
positive = st.floats(0, 1e300)


@given(
    train=text,
    hidden=st.lists(st.integers(1, 9), max_size=3),
    seed=st.integers(0, 2**62),
    exact=st.booleans(),
    rate=positive,
    decay=positive,
    momentum=st.floats(0, 0.999),
    modules=st.lists(text, max_size=3) | st.dictionaries(text, text, max_size=3),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, train, hidden, seed, exact, rate, decay, momentum, modules):
    config = msgspec.convert(
        {
            "data": {"train": train},
            "model": {"hidden": hidden, "weights": "start.npz", "modules": modules},
            "train": {"seed": seed, "exact": exact},
            "optimizer": {"rate": rate, "decay": decay, "momentum": momentum},
        },
        Config,
    )
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(config.to_toml())
    assert load(path) == config


WRONG = {
    "train.epoch=3": "unknown key train.epoch; did you mean 'epochs'",
    "train.btach=3": "did you mean 'batch'",
    "optimiser.rate=1": r"unknown section \[optimiser\]; did you mean 'optimizer'",
    "sync.momentum=0.9": "did you mean 'optimizer.momentum'",
    "train.epochs=many": "train.epochs: expected `int`, got `str`",
    "train.epochs=2.5": "train.epochs: expected `int`, got `float`",
    "train.exact=1": "train.exact: expected `bool`, got `int`",
    "model.hidden=[1.5]": r"model.hidden\[0\]: expected `int`",
    'model.modules=["fc1"]': "means nothing without model.weights",
    "model.hidden=[0]": "each number must be 1 or more",
    "optimizer.name=adam": "optimizer.name: invalid enum value 'adam'; did you mean 'adamw'.; it is one of sgd, adamw, lars",
    "model.name=mpl": "did you mean 'mlp'.; it is one of mlp, softmax, linear",
    "model.heads=2": 'model.heads means nothing to "mlp"; leave it out, or set it to 4',
    "model.dropout=1": "model.dropout is 1.0; it must be below 1",
    "model.attention_dropout=1": "model.attention_dropout is 1.0; it must be below 1",
    "train.micro_batch=-1": "train.micro_batch is -1; it must be 0 or more",
    "model.dtype=flaot32": "did you mean 'float32'",
    "optimizer.rate=-1": "optimizer.rate is -1.0; it must be 0 or more",
    "optimizer.rate=nan": "optimizer.rate is nan",
    "optimizer.rate=inf": "optimizer.rate is inf; it must be finite",
    "optimizer.momentum=1": "optimizer.momentum is 1.0; it must be below 1",
    "optimizer.decay=-0.1": "optimizer.decay is -0.1; it must be 0 or more",
    "optimizer.nesterov=true": "means nothing without optimizer.momentum",
    "optimizer.beta1=0.5": 'optimizer.beta1 means nothing to "sgd"',
    "rate.floor=0.5": 'rate.floor means nothing to "constant"',
    "sync.outer=sgd": 'sync.outer means nothing to "every-step"',
    "sync.warm_epochs=-1": "sync.warm_epochs is -1",
    "sync.outer_momentum=1": "sync.outer_momentum is 1.0; it must be 0 or more and below 1",
    "sync.outer_rate=0.5": 'sync.outer_rate means nothing to "every-step"',
    "rate.recipe=large-batch": "set rate.base_batch",
    "train.batch=0": "train.batch is 0; it must be 1 or more",
    "run.keep=0": "run.keep is 0; it must be 1 or more",
    "sync.reducer=ring": "cannot be exact",
    'data.transforms=[{name="flip"},{name="nosie"}]': "invalid enum value 'nosie'; did you mean 'noise'.; it is one of cast, scale",
    "server.ranks=al": "did you mean 'all'.; it is one of all or a number",
    "sync.staleness=3": "did you mean 'server.bound'",
    "train=3": "expected section.key=value",
    "train.epochs": "expected section.key=value",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_is_named(written, change):
    with pytest.raises(ConfigError, match=WRONG[change]):
        written(SMALL, change)


def test_other_words_for_a_key_lead_to_one_that_there_is(written):
    keys = written().flat()
    assert set(SYNONYMS.values()) <= set(keys)
    assert not set(SYNONYMS) & {key.partition(".")[2] for key in keys}


def test_a_run_of_before_no_servers_were_refused_is_read(tmp_path, written):
    text = written().to_toml().replace('ranks = "all"', "ranks = 0")
    (tmp_path / "config.toml").write_text(text)
    assert load_run(tmp_path) == written()
    with pytest.raises(ConfigError, match=r"server\.ranks is 0"):
        load(tmp_path / "config.toml")


def test_the_recipe_for_large_batches_tells_all_that_it_changes_and_changes_nothing_twice(written):
    config = written(SMALL, "rate.recipe=large-batch", "rate.base_batch=128", "train.epochs=8")
    changed, notes = apply_recipe(config)
    differ = {key for key, value in changed.flat().items() if value != config.flat()[key]}
    assert differ == {"optimizer.name", "optimizer.momentum", "rate.name", "rate.warmup_epochs"}
    assert (changed.optimizer.name, changed.rate.warmup_epochs) == ("lars", 2.0)
    assert len(notes) == len(differ)
    assert all(any(key in note for note in notes) for key in differ)
    assert apply_recipe(changed) == (changed, [])
    assert apply_recipe(written()) == (written(), [])


def test_the_recipe_keeps_what_was_set_and_makes_lamb_of_adam(written):
    changes = ["optimizer.name=adamw", "rate.warmup_epochs=1", "rate.name=step"]
    changed, notes = apply_recipe(written(SMALL, "rate.recipe=large-batch", "rate.base_batch=128", *changes))
    assert (changed.optimizer.name, changed.rate.warmup_epochs, changed.rate.name) == ("lamb", 1.0, "step")
    assert len(notes) == 1


def test_a_file_that_is_wrong_is_named(written, tmp_path):
    for text, part in {
        "": "data",
        "data = 3": "data must be a section",
        "[data": "not valid TOML",
        "[data]\n": "data: object missing required field `train`",
        '[data]\ntrain = "a"\n[model]\nname = "linear"\nhidden = [3]\n': 'model.hidden means nothing to "linear"',
        '[data]\ntrain = "a"\n[model]\nname = "transformer"\noutputs = 3\n': "a transformer's outputs are its vocabulary",
        '[data]\ntrain = "a"\n[model]\nname = "transformer"\nheads = 3\n': "model.width is 256, which is no multiple of model.heads = 3",
        '[data]\ntrain = "a"\n[model]\nname = "transformer"\nrecall = [3, 5, 7]\n': "model.recall is [3, 5, 7]; give lengths of 1 token",
    }.items():
        with pytest.raises(ConfigError, match="job.toml.*" + part.replace("[", "\\[")):
            written(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path / "binary.toml")


def test_a_change_of_what_is_not_a_section_is_refused(written):
    with pytest.raises(ConfigError, match="'data' is not a section"):
        written("data = 3", "data.train=x")


def test_every_key_has_one_meaning_and_the_document_agrees(repository):
    assert list(MEANINGS) == list(Config(DataConfig(train="x")).flat())
    assert keys_table() in (repository / "docs" / "config.md").read_text()


def test_the_keys_are_shown_without_a_config(capsys):
    assert main(["train", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(MEANINGS)
    assert lines[0].split()[:2] == ["data.train", "needed"]
    assert any(line.split()[:2] == ["train.epochs", "10"] for line in lines)


def test_no_help_shows_the_marks_of_a_docstring(capsys):
    assert main(["train", "--help"]) == 0
    assert "``" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("run.device=cpu", r'run\.device is "cpu"'),
        ("sync.name=gossip", r'sync\.name = "gossip" checks each worker'),
        ("model.dtype=float64", r'model\.dtype is "float64"'),
        ("model.name=hopfield", 'the random numbers and the step of a "hopfield"'),
    ],
)
def test_graphs_are_refused_where_a_pass_cannot_be_captured(written, change, why):
    with pytest.raises(ConfigError, match=f"train.graph = true .*{why}.*leave it out"):
        written(SMALL, "train.graph=true", change)


@pytest.mark.parametrize("keys", ['name = "resnet"\nchannels = [4]\nsynchronised = true', 'name = "transformer"\nattention_dropout = 0.1'])
def test_graphs_are_refused_for_models_that_meet_or_draw_within_a_pass(written, keys):
    with pytest.raises(ConfigError, match=r"train\.graph = true .*leave one of them out"):
        written(f"{SMALL}[model]\n{keys}\n", "train.graph=true")
