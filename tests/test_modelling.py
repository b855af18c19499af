from __future__ import annotations

import time

import numpy as np
import pytest

from hpcml import modelling, open_shards
from hpcml.build import build_job
from hpcml.comm import simulated
from hpcml.config import load
from hpcml.config.limits import LOSS_KEYS, MODEL_KEYS
from hpcml.data import ShardedDataset
from hpcml.errors import ConfigError, DataError, ShapeError
from hpcml.modelling import LOSS_MAKERS, MODELS, OWN_OUTPUTS, build_loss, build_model, compile_kernels, require_shapes, resolve_loss
from hpcml.nn import LOSSES, Dense, Embedding, Model, cross_entropy
from hpcml.train.identity import require_fit
from tests.small import Job

SIZES = {
    "mlp": ["model.hidden=[5]"],
    "lenet": ["model.shape=[4, 4, 1]", "model.channels=[3]", "model.hidden=[6]"],
    "resnet": ["model.shape=[4, 4, 1]", "model.channels=[2, 3]", "model.blocks=2"],
    "autoencoder": ["model.hidden=[5, 2]", "model.outputs=16"],
    "lstm": ["model.shape=[4, 4]", "model.hidden=[3, 5]"],
}


@pytest.fixture
def config(tmp_path):
    """A config with changes such as "model.name=lstm"."""

    def make(*changes):
        path = tmp_path / "job.toml"
        path.write_text('[data]\ntrain = "a"\n[model]\noutputs = 3\n')
        return load(path, changes)

    return make


def test_shapes_that_do_not_fit_are_drawn_on_every_rank_before_a_row_is_read(tmp_path, monkeypatch, world):
    """Nothing is staged and no class counted: what the model takes is known from the files' headers."""
    stage = tmp_path / "stage"
    shape = ["model.shape=[2, 2, 1]", "model.channels=[3, 3]", "model.hidden=[]", f"data.stage={stage}"]
    job = load(Job(tmp_path).config, ["model.name=lenet", f"data.train={tmp_path}/train-*.h5", *shape])
    monkeypatch.setattr(ShardedDataset, "read", lambda *_: pytest.fail("read a row"))

    def program(comm):
        with pytest.raises(ShapeError) as caught:
            build_job(job, comm, tmp_path / "run", False, [])
        return str(caught.value)

    (text,) = set(world(3, program))
    assert text.startswith('model.name = "lenet" cannot be made for rows of shape (4,): layer 6 (MaxPool): MaxPool: a window of 2')
    assert text.splitlines()[1:] == [
        "  input (4,)",
        "  0 Reshape -> (2, 2, 1)",
        "  1 Conv -> (2, 2, 3)",
        "  2 MaxPool -> (1, 1, 3)",
        "  3 Bias -> (1, 1, 3)",
        "  4 ReLU -> (1, 1, 3)",
        "  5 Conv -> (1, 1, 3)",
        "  6 MaxPool <- here",
    ]
    assert not stage.exists()


def test_what_model_and_rows_need_of_each_other_is_said_by_their_keys(config):
    with pytest.raises(ShapeError, match=r'"lstm" cannot be made for rows of shape \(16,\).*; set model\.shape'):
        require_shapes(config("model.name=lstm", "model.hidden=[3]", "model.outputs=0"), (16,))
    shaped = config("model.name=lstm", "model.hidden=[3]", "model.shape=[4, 4]", "model.outputs=0")
    require_shapes(shaped, (16,))
    with pytest.raises(ShapeError, match="takes rows of 16 numbers, got 15") as caught:
        require_shapes(shaped, (15,))
    assert "set model.shape" not in str(caught.value)


LOSSES_THAT_DO_NOT_FIT = {
    "contrastive": (Model([Dense(3)], (4,)), "takes two vectors a row, got rows of shape \\(3,\\)"),
    "token-cross-entropy": (Model([Embedding(3, 3)], (4,)), "name the features as target, where they are what is to be predicted"),
    "squared-error": (Model([Dense(4)], (4,)), "name the features as target, where they are what is to be predicted"),
}


@pytest.mark.parametrize("name", LOSSES_THAT_DO_NOT_FIT)
def test_a_loss_that_does_not_fit_is_refused_before_the_first_step(name, tmp_path):
    Job(tmp_path)
    model, words = LOSSES_THAT_DO_NOT_FIT[name]
    with open_shards(f"{tmp_path}/train-*.h5") as data, pytest.raises(ShapeError, match=words):
        require_fit(model, LOSSES[name], data)


@pytest.mark.parametrize(("loss", "words"), [(cross_entropy, r"it makes a loss: write cross_entropy\(\)"), ("hinge", "choose .*hinge")])
def test_what_is_no_loss_is_refused(loss, words, tmp_path):
    Job(tmp_path)
    with open_shards(f"{tmp_path}/train-*.h5") as data, pytest.raises(ShapeError, match=f"not a loss of hpcml.nn; {words}"):
        require_fit(Model([Dense(3)], (4,)), loss, data)


def test_classes_that_are_stored_as_other_numbers_are_refused_before_they_are_counted(tmp_path, world):
    job = load(
        Job(tmp_path).config, [f"data.train={tmp_path}/train-*.h5", "data.test=", "data.target=x", "train.loss=softmax-cross-entropy"]
    )

    def program(comm):
        with pytest.raises(DataError) as caught:
            build_job(job, comm, tmp_path / "run", False, [])
        return str(caught.value)

    (text,) = set(world(3, program))
    assert "takes classes, stored as whole numbers, as target; field 'x' is float32; write the shards with whole numbers, or take" in text


def test_every_name_of_the_config_has_its_model_and_its_loss():
    assert set(MODELS) == set(MODEL_KEYS)
    assert set(LOSS_MAKERS) == set(LOSS_KEYS) == set(LOSSES)


@pytest.mark.parametrize("name", [name for name in MODEL_KEYS if name not in OWN_OUTPUTS])
def test_a_model_by_name_takes_flat_rows_and_gives_its_outputs(name, config):
    keys = config(f"model.name={name}", *SIZES.get(name, []))
    model = build_model(keys, (16,))
    assert model.shape == (16,)
    assert model.forward(np.ones((2, 16), np.float32)).shape == (2, keys.model.outputs)


@pytest.mark.parametrize("changes", [["rbm", "model.hidden=[5]", "model.steps=2"], ["som", "model.grid=[3, 2]"], ["hopfield"]])
def test_a_model_with_a_rule_of_its_own_gives_rows_back(changes, config):
    keys = config(f"model.name={changes[0]}", "model.outputs=0", *changes[1:])
    assert resolve_loss(keys, Target("float32", (4, 4))).train.loss == "squared-error"
    model = build_model(keys, (4, 4))
    assert model.forward(np.ones((2, 4, 4), np.float32)).shape == (2, 16)


def test_an_image_in_the_shards_needs_no_shape(config):
    model = build_model(config("model.name=lenet", "model.channels=[3]"), (4, 4, 2))
    assert model.describe() == "0.conv.weight (3, 3, 2, 3); 2.bias.bias (3,); 5.dense.weight (12, 3); 5.dense.bias (3,)"


def test_rows_of_another_size_are_drawn_against_the_shape(config):
    with pytest.raises(ShapeError, match=r"layer 0 \(Reshape\): Reshape to \(4, 4\) takes rows of 16 numbers, got 60 in \(60,\)"):
        build_model(config("model.name=lstm", *SIZES["lstm"]), (60,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.name=lenet"], 'a "lenet" needs model.channels, such as'),
        (["model.name=autoencoder"], 'a "autoencoder" needs model.hidden'),
        (["model.name=mlp", "model.shape=[8, 8]"], r'model.shape means nothing to "mlp"; leave it out, or set it to \[\]'),
        (["model.name=svm", "model.hidden=[8]"], 'model.hidden means nothing to "svm"'),
        (["model.channels=[0]"], r"model.channels is \[0\]; each number must be 1 or more"),
        (["model.name=rbm", "model.outputs=0"], 'a "rbm" needs model.hidden'),
        (["model.name=rbm", "model.outputs=0", "model.hidden=[4, 5]"], r"model.hidden is \[4, 5\], but an rbm has one layer"),
        (["model.name=rbm", "model.outputs=0", "model.hidden=[4]", "model.highest=0.0"], "model.highest is 0.0; it must be above 0"),
        (["model.name=som", "model.outputs=0"], 'a "som" needs model.grid'),
        (["model.name=som", "model.outputs=0", "model.grid=[0]"], r"model.grid is \[0\]; each number must be 1 or more"),
        (["model.name=som", "model.outputs=0", "model.grid=[3]", "model.kept=1.0"], "model.kept is 1.0; it must be below 1"),
        (["model.name=hopfield"], 'model.outputs is 3, but a "hopfield" gives back as many numbers as a row has'),
        (["model.name=hopfield", "model.outputs=0", "train.loss=hinge"], 'train.loss = "hinge" says nothing about a "hopfield"'),
        (["train.loss=huber", "train.delta=0.0"], "train.delta is 0.0; it must be above 0"),
        (["train.loss=huber", "train.margin=2.0"], 'train.margin means nothing to "huber"'),
        (["train.loss=softmax-cross-entropy", "train.label_smoothing=1.0"], "train.label_smoothing is 1.0; it must be below 1"),
        (["train.class_weights=[1.0, -1.0]"], r"train.class_weights is \[1.0, -1.0\]; each number must be finite and 0 or more"),
    ],
)
def test_keys_that_cannot_be_are_refused_by_name(changes, words, config):
    with pytest.raises(ConfigError, match=words):
        config(*changes)


class Target:
    """What resolve_loss looks at of a data set."""

    def __init__(self, dtype, shape=()):
        self.y = self
        self.dtype, self.shape = dtype, shape


@pytest.mark.parametrize(
    ("name", "target", "loss"),
    [
        ("mlp", Target("uint8"), "softmax-cross-entropy"),
        ("mlp", Target("float32"), "squared-error"),
        ("mlp", Target("uint8", (10,)), "squared-error"),
        ("linear", Target("uint8"), "squared-error"),
        ("logistic", Target("uint8"), "binary-cross-entropy"),
        ("svm", Target("uint8"), "hinge"),
    ],
)
def test_auto_is_the_loss_that_model_and_target_mean(name, target, loss, config):
    assert resolve_loss(config(f"model.name={name}"), target).train.loss == loss


def test_a_key_that_the_loss_behind_auto_has_not_is_refused(config):
    with pytest.raises(ConfigError, match=r'train.margin means nothing to "softmax-cross-entropy", which train.loss = "auto" stands for'):
        resolve_loss(config("train.margin=2.0"), Target("uint8"))


def test_the_options_of_a_loss_come_from_its_keys(config):
    loss = build_loss(config("train.loss=softmax-cross-entropy", "train.label_smoothing=0.1", "train.class_weights=[1.0, 2.0, 3.0]"))
    assert loss.options == "label_smoothing=0.1, class_weights=(1.0, 2.0, 3.0)"
    assert build_loss(config("train.loss=hinge", "train.margin=2.0")).options == "margin=2.0"
    assert all(build_loss(config(f"train.loss={name}")).options == "" for name in LOSSES)


def test_there_is_a_weight_for_each_class(config):
    with pytest.raises(ConfigError, match=r"train.class_weights has 2 numbers for 3 classes; give one for each"):
        build_loss(config("train.loss=softmax-cross-entropy", "train.class_weights=[1.0, 2.0]"))


def test_one_rank_a_node_compiles_fused_steps_while_the_others_wait(config, monkeypatch):
    """Each rank notes its turn before and after: nobody goes on before the node's first is through."""
    notes, job = [], config("train.kernels=fast")

    def slowly():
        notes.append("compiling")
        time.sleep(1.2)
        notes.append("compiled")

    monkeypatch.setattr(modelling, "load_fused", slowly)

    def program(comm):
        said = []
        compile_kernels(job, comm, lambda *words: said.append(words))
        notes.append("went on")
        return said

    said = simulated.run(5, program, hosts=list("aabab"))
    assert notes.count("compiling") == 2
    assert notes.index("went on") > max(place for place, note in enumerate(notes) if note == "compiled")
    for words in said:  # those who wait too: it may be another node that compiles
        assert (words[0], words[-1]) == (("fused steps compiled:", 0, 1), ("fused steps compiled:", 1, 1))


@pytest.mark.mpi
def test_ranks_that_wait_for_the_compiler_leave_it_their_cores(config, comm, monkeypatch):
    monkeypatch.setattr(modelling, "load_fused", lambda: time.sleep(1))
    before = time.process_time()
    compile_kernels(config("train.kernels=fast"), comm)
    assert time.process_time() - before < 0.4  # by spinning it would be up to 1


def test_fused_steps_that_one_node_lacks_are_an_error_on_every_rank(config, monkeypatch):
    job = config("train.kernels=fast")

    def program(comm):
        with pytest.raises(ConfigError, match="numba"):
            compile_kernels(job, comm)
        return True

    def missing():
        raise ConfigError("fused steps need the package numba")

    monkeypatch.setattr(modelling, "load_fused", missing)
    assert simulated.run(3, program, hosts=list("aab")) == [True] * 3


def test_a_job_of_numpys_steps_compiles_nothing(config, monkeypatch, world):
    job = config()
    monkeypatch.setattr(modelling, "load_fused", lambda: pytest.fail("compiled"))
    world(2, lambda comm: compile_kernels(job, comm))
