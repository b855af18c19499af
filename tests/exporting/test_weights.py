"""Weights go out and come back bit for bit, and PyTorch's arrive where they belong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.errors import ConfigError, ExportError, NumericsError, ShapeError
from hpcml.exporting import export_onnx, export_weights, load_weights
from hpcml.nn import (
    RNN,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    Model,
    Parallel,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    lenet,
    lstm,
    mlp,
    resnet,
    transformer,
)

MODELS = {
    "mlp": lambda seed, dtype="float32": mlp([6, 8, 3], seed=seed, dtype=dtype),
    "lenet": lambda seed, dtype="float32": lenet((8, 8, 3), [4, 6], [10], 5, seed=seed, dtype=dtype),
    "resnet": lambda seed, dtype="float32": resnet((8, 8, 3), [4, 6], 1, 5, seed=seed, dtype=dtype),
    "lstm": lambda seed, dtype="float32": lstm((4, 3), [5], 2, seed=seed, dtype=dtype),
    "transformer": lambda seed, dtype="float32": transformer(9, layers=2, width=8, heads=2, seed=seed, dtype=dtype),
}


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors", reason="safetensors is not installed; pip install safetensors to exchange weights")


def arrays(model):
    """A model's numbers by name, as copies."""
    return {p.name: p.data.copy() for p in model.arena}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_weights_go_out_and_come_back_bit_for_bit(name, dtype, tmp_path, safetensors):
    model, other = MODELS[name](1, dtype), MODELS[name](2, dtype)
    export_weights(model, tmp_path / "model.safetensors", {"step": "3"})
    origin = load_weights(other, tmp_path / "model.safetensors")
    assert other.arena.data.tobytes() == model.arena.data.tobytes()
    assert origin == {p.name: p.name for p in model.arena}
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "hpcml", "layout": model.arena.fingerprint(), "step": "3"}
        assert {name: file.get_tensor(name).shape for name in file.keys()} == dict(model.arena.layout())  # noqa: SIM118
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=5), seed=st.integers(0, 99), turn=st.randoms())
def test_a_mapping_in_any_order_is_taken_by_name(sizes, seed, turn):
    model, other = mlp(sizes, seed=seed), mlp(sizes, seed=seed + 1)
    mixed = list(arrays(model).items())
    turn.shuffle(mixed)
    load_weights(other, dict(mixed))
    np.testing.assert_array_equal(other.arena.data, model.arena.data)


def changed(**changes):
    """The arrays of an mlp with some of them changed, or left out where None."""
    told = {f"0.dense.{name}" if "." not in name else name: value for name, value in changes.items()}
    return {name: value for name, value in (arrays(mlp([4, 3, 2])) | told).items() if value is not None}


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (
            changed(bias=None, other=np.ones(3), weight=np.ones((3, 4))),
            ExportError,
            r"dict: not the weights of this model; give others.*\n  missing: 0.dense.bias \(3,\)\n  unexpected: 0.dense.other \(3,\)\n"
            r"  0.dense.weight has shape \(4, 3\), the weights give \(3, 4\)$",
        ),
        (changed(weight=np.ones((3, 4))), ShapeError, r"what they are of\n  0.dense.weight has shape \(4, 3\), the weights give \(3, 4\)$"),
        (
            changed(bias=np.array([0, np.nan, 1]), weight=np.full((4, 3), 1e300)),
            NumericsError,
            "not finite as float32 are in 0.dense.weight, 0.dense.bias",
        ),
        ({7: np.ones(3)}, ExportError, "the name 7 is a int, expected text"),
        (
            {"model": changed(), "epoch": 3, "gone": "text"},
            ExportError,
            "'model' is a dict, expected an array; .* alone, one of 'model'",
        ),
        (changed(bias="text"), ExportError, "'0.dense.bias' is a str, expected an array"),
        ({}, ExportError, "not the modules of this model's layers\n  0.dense .weight, bias. <- no module  <- here"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(state, error, message):
    model = mlp([4, 3, 2], seed=5)
    before = model.arena.data.copy()
    with pytest.raises(error, match=message):
        load_weights(model, state)
    np.testing.assert_array_equal(model.arena.data, before)


@pytest.mark.parametrize("name", ["cut.safetensors", "missing.safetensors", "model.h5", "missing.npz", "cut.npz", "one.npz", "objects.npz"])
def test_a_file_that_cannot_be_read_is_named(name, tmp_path, safetensors):
    if name.startswith("cut"):
        (tmp_path / name).write_bytes(b"\x10\x00")
    elif name.startswith(("one", "objects")):
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.ones(3)) if name.startswith("one") else np.savez(file, a=np.array([{}], object))
    with pytest.raises(ExportError, match=name):
        load_weights(mlp([2, 2]), tmp_path / name)


@pytest.mark.parametrize("name", ["safetensors", "onnx", "torch"])
def test_a_package_that_is_not_installed_is_named_with_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, f"{name}.numpy", None)
    (tmp_path / "a.pt").touch()
    doing = {"safetensors": export_weights, "onnx": export_onnx, "torch": load_weights}[name]
    hint = (
        "install it, or .*safetensors.torch.save_file"
        if name == "torch"
        else rf"{name} files need the package {name} .*pip install 'hpcml\[export\]'"
    )
    with pytest.raises(ConfigError, match=hint):
        doing(mlp([2, 2]), tmp_path / "a.pt")


def test_a_run_folder_is_told_how_its_model_gets_out(tmp_path):
    with pytest.raises(ExportError, match=r"is a folder; of a run, write the model by `hpcml checkpoint export .* --out FILE.safetensors`"):
        load_weights(mlp([2, 2]), tmp_path)
    with pytest.raises(ExportError, match="weights are read from a file or a mapping of names to arrays, got None"):
        load_weights(mlp([2, 2]), None)


@pytest.mark.parametrize("pytorch", [False, True])
def test_npz_files_give_arrays_by_name_or_modules_in_their_order(pytorch, tmp_path):
    model, named = mlp([3, 3, 3]), state(up=linear(3, 3), down=linear(3, 3, 50))
    np.savez(tmp_path / "w.npz", **(named if pytorch else arrays(mlp([3, 3, 3], seed=5))))
    load_weights(model, tmp_path / "w.npz")
    expected = named["down.weight"].T if pytorch else mlp([3, 3, 3], seed=5).arena.view("2.dense.weight").data
    np.testing.assert_array_equal(model.arena.view("2.dense.weight").data, expected)


def test_a_file_of_another_model_of_ours_is_compared_by_name(tmp_path, safetensors):
    export_weights(mlp([2, 2]), tmp_path / "a.safetensors", {"model": "linear"})
    with pytest.raises(
        ExportError, match=r"(?s)a.safetensors \(of the model 'linear'\): not .* missing: 0.lstm.input .* unexpected: 0.dense"
    ):
        load_weights(lstm((4, 3), [5], 2), tmp_path / "a.safetensors")


def test_nothing_of_an_export_stays_where_it_fails(tmp_path, safetensors):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ExportError, match="it is a folder"):
        export_weights(mlp([2, 2]), tmp_path / "folder.safetensors")
    with pytest.raises(ExportError, match=r"cannot be written: there is no folder '.*nowhere'; make it first"):
        export_weights(mlp([2, 2]), tmp_path / "nowhere" / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def linear(outputs, inputs, start=0):
    """What PyTorch's Linear holds, with numbers that tell their place."""
    return {
        "weight": start + np.arange(outputs * inputs, dtype=float).reshape(outputs, inputs),
        "bias": start + np.arange(outputs, dtype=float),
    }


def state(**modules):
    """A state dict of modules."""
    return {f"{name}.{key}": value for name, tensors in modules.items() for key, value in tensors.items()}


def test_a_safetensors_file_of_numbered_modules_goes_by_their_numbers(tmp_path, safetensors):
    from safetensors.numpy import save_file

    model = mlp([3] * 12)
    named = state(**{f"net.{2 * k}": linear(3, 3, 100 * k) for k in range(11)})
    save_file({name: np.ascontiguousarray(array) for name, array in named.items()}, tmp_path / "torch.safetensors")
    origin = load_weights(model, tmp_path / "torch.safetensors")
    for k in range(11):
        np.testing.assert_array_equal(model.arena.view(f"{2 * k}.dense.weight").data, named[f"net.{2 * k}.weight"].T)
        assert origin[f"{2 * k}.dense.bias"] == f"net.{2 * k}.weight + net.{2 * k}.bias"


def test_a_safetensors_file_of_named_modules_needs_their_order(tmp_path, safetensors):
    from safetensors.numpy import save_file

    model, named = mlp([3, 3, 3]), state(up=linear(3, 3), down=linear(3, 3, 50))
    save_file(named, tmp_path / "torch.safetensors")
    with pytest.raises(ExportError, match=r"does not keep the order.*model.modules in a job.*down, up"):
        load_weights(model, tmp_path / "torch.safetensors")
    load_weights(model, tmp_path / "torch.safetensors", modules=["up", "down"])
    np.testing.assert_array_equal(model.arena.view("2.dense.bias").data, named["down.bias"])


@pytest.mark.parametrize("modules", [["up", "down"], {"2.dense": "down", "0.dense": "up"}])
def test_modules_go_where_they_are_named_whatever_their_order(modules):
    model, named = mlp([3, 3, 3]), state(down=linear(3, 3, 50), up=linear(3, 3))
    assert load_weights(model, named, modules=modules)["0.dense.bias"] == "up.weight + up.bias"
    np.testing.assert_array_equal(model.arena.view("2.dense.bias").data, named["down.bias"])


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ["up", "left"],
            "there is no module 'left'; the module 'down' is not named; the model's layers are 0.dense, 2.dense; the modules up, down",
        ),
        (["up", "up"], "the module 'down' is not named"),
        ({"0.dense": "up", "fc": "x"}, "no layer 'fc'; there is no module 'x'; the module 'down' is not named"),
        ({"0.dense": "up", "2.dense": "up"}, "the module 'down' is not named"),
        ({}, "the module 'up' is not named; the module 'down' is not named"),
    ],
)
def test_modules_that_are_not_there_or_left_over_are_named(modules, message):
    with pytest.raises(ExportError, match=message):
        load_weights(mlp([3, 3, 3]), state(up=linear(3, 3), down=linear(3, 3)), modules=modules)


def test_modules_that_do_not_match_are_drawn_beside_the_layers():
    model = Model([Dense(3), BatchNorm(), Dense(2)], (3,))
    with pytest.raises(ExportError) as caught:
        load_weights(model, state(a=linear(3, 4), b={"weight": np.ones(3), "bias": np.ones(3)}, c=linear(2, 3), d=linear(1, 1)))
    assert str(caught.value).splitlines()[:-1] == [
        "the state dict: not the modules of this model's layers",
        "  0.dense (weight, bias) <- a (weight, bias)",
        "    0.dense.weight has shape (3, 3), the weights give (4, 3)  <- here",
        "  1.batchnorm (weight, bias, running_mean, running_var) <- b (weight, bias)  <- here",
        "  2.dense (weight, bias) <- c (weight, bias)",
        "  no layer <- d (weight, bias)  <- here",
    ]


def test_all_shapes_that_do_not_fit_are_told_at_once():
    model = mlp([4, 3, 2])
    with pytest.raises(ShapeError, match=r"0.dense.weight has shape \(4, 3\).*\(3, 4\).*\n.*\n.*2.dense.bias .*\(2,\), .*\(1,\)"):
        load_weights(model, state(a={"weight": np.ones((4, 3)), "bias": np.ones(3)}, b={"weight": np.ones((2, 3)), "bias": np.ones(1)}))


def test_biases_of_a_recurrent_module_are_of_one_shape():
    tensors = {"weight_ih": np.ones((5, 3)), "weight_hh": np.ones((5, 5)), "bias_ih": np.ones(5), "bias_hh": np.ones(4)}
    with pytest.raises(ShapeError, match=r"bias_ih and bias_hh are of one shape, these are \(5,\) and \(4,\)"):
        load_weights(Model([RNN(5)], (4, 3)), {f"{name}_l0": array for name, array in tensors.items()})


class Odd(Dense):
    """A user's layer."""


@pytest.mark.parametrize(
    ("layers", "shape", "name"),
    [
        ([Odd(2)], (3,), "a Odd has no counterpart"),
        ([Conv(4, 1), Reshape(2, 2, 16), Conv(2, 1)], (4, 4, 2), "1.reshape: PyTorch has the channels first"),
        ([Conv(2, 1), Parallel(Flatten(), Sequential(Flatten(), ReLU())), Dense(2)], (4, 4, 2), "1.parallel: branches that flatten"),
    ],
)
def test_what_has_no_counterpart_in_pytorch_is_refused_by_name(layers, shape, name):
    with pytest.raises(ExportError, match=name):
        load_weights(Model(layers, shape), state(a=linear(2, 3)))


def test_loading_imports_no_pytorch():
    program = (
        "import sys, numpy, hpcml\n"
        "hpcml.load_weights(hpcml.nn.linear(2, 1), {'a.weight': numpy.ones((1, 2)), 'a.bias': numpy.ones(1)})\n"
        "assert not {'torch', 'onnx', 'safetensors'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def test_residual_blocks_keep_their_order():
    model = Model([Residual(Dense(3), ReLU(), Dense(3), projection=Dense(3)), Dense(2)], (3,))
    load_weights(model, state(a=linear(3, 3), b=linear(3, 3, 10), c=linear(3, 3, 20), d=linear(2, 3, 30)))
    assert [float(p.data.flat[0]) for p in model.arena] == [0, 0, 10, 10, 20, 20, 30, 30]
