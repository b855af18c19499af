"""PyTorch as the oracle: a state dict of the same architecture makes the same predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcml.errors import ExportError
from hpcml.exporting import load_weights
from hpcml.nn import (
    GELU,
    GRU,
    LSTM,
    RNN,
    Attention,
    AveragePool,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    LayerNorm,
    MaxPool,
    Model,
    ReLU,
    Residual,
    Tanh,
    lenet,
    mlp,
    resnet,
    transformer,
)
from tests.nn.torching import close
from tests.nn.torching import torch as torch_or_skip


@pytest.fixture
def torch():
    library = torch_or_skip()
    library.manual_seed(7)
    return library


def stirred(torch, net):
    """The module in double precision and evaluation, every number of it moved, running statistics too."""
    net = net.double().eval()
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) / 2 + (0.1 if name.endswith("running_var") else 0))
    return net


def assert_same(torch, model, net, state=None, **options):
    """Load and compare predictions; images go to PyTorch with the channels first."""
    net = stirred(torch, net)
    load_weights(model, net.state_dict() if state is None else state(net), **options)
    x = np.random.default_rng(1).standard_normal((3, *model.shape))
    given = torch.tensor(np.moveaxis(x, -1, 1).copy() if len(model.shape) > 1 and has_images(model) else x)
    close(model.forward(x), net(given), 1e-9)


def has_images(model):
    return any(isinstance(layer, (Conv, MaxPool, AveragePool)) for layer in model.layers)


def test_mlp(torch):
    nn = torch.nn
    assert_same(
        torch, mlp([6, 8, 5, 3], dtype="float64"), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    )


def test_lenet_whose_biases_stand_behind_the_pooling(torch):
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 5)),
    )
    assert_same(torch, lenet((8, 8, 3), [4, 6], [10], 5, dtype="float64"), net)


def test_convolutions_with_groups_and_norms_on_both_sides_of_the_flattening(torch):
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.BatchNorm1d(36), nn.Tanh(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    )
    row = [Conv(6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), BatchNorm(), ReLU(), AveragePool(2)]
    model = Model([*row, Flatten(), BatchNorm(), Tanh(), Dense(5), BatchNorm(), Dense(3)], (8, 7, 4), dtype="float64")
    assert_same(torch, model, net)


def test_convolutions_of_sequences(torch):
    nn = torch.nn
    net = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(24, 3))
    assert_same(torch, Model([Conv(6, 3, padding=1), ReLU(), MaxPool(2), Flatten(), Dense(3)], (8, 4), dtype="float64"), net)


def test_resnet(torch):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, k, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(before, k, 3, stride, 1, bias=False), nn.BatchNorm2d(k)
            self.conv2, self.bn2 = nn.Conv2d(k, k, 3, 1, 1, bias=False), nn.BatchNorm2d(k)
            same = before == k and stride == 1
            self.downsample = nn.Sequential() if same else nn.Sequential(nn.Conv2d(before, k, 1, stride, bias=False), nn.BatchNorm2d(k))

        def forward(self, x):
            return (self.downsample(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()

    first = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    net = nn.Sequential(*first, Block(4, 4, 1), Block(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert_same(torch, resnet((8, 8, 3), [4, 6], 1, 5, dtype="float64"), net)


@pytest.mark.parametrize(("ours", "theirs"), [(RNN, "RNN"), (LSTM, "LSTM"), (GRU, "GRU")])
def test_recurrent_layers_one_on_the_other(torch, ours, theirs):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.below = getattr(torch.nn, theirs)(3, 5, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.below(x)[0][:, -1])

    assert_same(torch, Model([ours(5, sequence=True), ours(5), Dense(2)], (4, 3), dtype="float64"), Net())


def test_encoder_layers_that_normalise_first(torch):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True)
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def block():
        wide = Dense(12, positions=True), GELU(tanh=False), Dense(8, positions=True)
        return [Residual(LayerNorm(), Attention(8, 2)), Residual(LayerNorm(), *wide)]

    assert_same(torch, Model([*block(), *block()], (5, 8), dtype="float64"), net)


@pytest.mark.parametrize("head", ["a copy", "another", "left out"])
def test_transformer_with_a_shared_head(torch, head):
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.ln_2, self.c_fc, self.c_out = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x):
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(8, -1))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.c_proj(mixed.transpose(1, 2).flatten(2))
            return x + self.c_out(nn.functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(11, 8), nn.Embedding(6, 8)
            self.h, self.ln_f, self.lm_head = nn.ModuleList([Block(), Block()]), nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
            self.lm_head.weight = self.wte.weight

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe.weight
            for block in self.h:
                x = block(x)
            return self.lm_head(self.ln_f(x))

    net, model = stirred(torch, Net()), transformer(6, layers=2, width=8, heads=2, context=6, vocabulary=11, dtype="float64")
    state = dict(net.state_dict())
    if head == "another":
        state["lm_head.weight"] = state["lm_head.weight"] + 1
        with pytest.raises(ExportError, match=r"lm_head differs from wte.weight; this model's .*tiedhead shares its numbers"):
            load_weights(model, state)
        return
    if head == "left out":
        del state["lm_head.weight"]
    load_weights(model, state)
    tokens = np.random.default_rng(2).integers(0, 11, (3, 6))
    close(model.forward(tokens.astype(np.float64)), net(torch.tensor(tokens)), 1e-9)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_that_pytorch_writes(torch, suffix, dtype, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed; pip install ml_dtypes to read bfloat16")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).to(getattr(torch, dtype))
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch", reason="safetensors is not installed; pip install safetensors").save_file(
            net.state_dict(), path
        )
    model = mlp([3, 4, 2])
    load_weights(model, path)
    for ours, theirs in (("0.dense.weight", net[0].weight), ("2.dense.weight", net[2].weight)):
        np.testing.assert_array_equal(model.arena.view(ours).data, theirs.detach().float().numpy().T)


def test_a_file_that_holds_anything_but_tensors_is_refused_and_nothing_in_it_is_run(torch, tmp_path):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was run",))

    for held, message in (
        (
            {"epoch": 3, "model": torch.nn.Linear(1, 1).state_dict()},
            "'model' is a .*Dict, expected an array; .* alone, one of 'model'",
        ),
        ([1, 2], "holds a list; expected a state dict"),
        ({"a": Runs()}, r".*could run code; if you trust it, .*weights_only=False"),
        (torch.nn.Linear(1, 1), r".*could run code; if you trust it, .*weights_only=False"),
    ):
        torch.save(held, tmp_path / "a.pt")
        with pytest.raises(ExportError, match=f"a.pt: {message}"):
            load_weights(mlp([1, 1]), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"no")
    with pytest.raises(ExportError, match=r"a.pt: no readable state dict"):
        load_weights(mlp([1, 1]), tmp_path / "a.pt")
    assert not (tmp_path / "was run").exists()
