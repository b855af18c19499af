"""Rules, clipping and rates against PyTorch's optimizers and schedules: the same steps in float64, whatever the hyper-parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcml.optim import SGD, AdaGrad, AdamW, Clipped, Constant, Cosine, Rate, Steps, Warmup
from tests.laws import RuleLaws
from tests.nn.torching import torch

LAWS = RuleLaws()
STEPS = 8
SEEDS = st.integers(0, 2**32 - 1)
RATES = st.floats(1e-4, 0.5)
DECAYS = st.sampled_from([0.0, 1e-4, 0.1])
BETAS = st.floats(0, 0.999)
EPSILONS = st.sampled_from([1e-10, 1e-8, 1e-3])
few = settings(max_examples=30)


def theirs(make, p, gradients, *, longest=None, schedule=None):
    """Parameters after PyTorch's steps over the parts of `p`, each a tensor of its own, by the optimizer that `make(tensors)` returns."""
    library = torch()
    tensors = [library.nn.Parameter(library.tensor(p[part])) for part in LAWS.parts]
    optimizer = make(tensors)
    scheduler = schedule(optimizer) if schedule else None
    for gradient in gradients:
        for tensor, part in zip(tensors, LAWS.parts, strict=True):
            tensor.grad = library.tensor(gradient[part])
        if longest is not None:
            library.nn.utils.clip_grad_norm_(tensors, longest)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return np.concatenate([tensor.detach().numpy() for tensor in tensors])


def assert_same_steps(rule, make, seed, *, relative=1e-10, **how):
    p, gradients = LAWS.case(seed, STEPS)
    np.testing.assert_allclose(LAWS.run(rule, p, gradients), theirs(make, p, gradients, **how), rtol=relative, atol=relative)


def sgd_of(rule, rate):
    options = {"momentum": rule.momentum, "nesterov": rule.nesterov, "weight_decay": rule.decay}
    return lambda tensors: torch().optim.SGD(tensors, lr=rate, **options)


def adamw_of(rule, rate):
    options = {"betas": (rule.beta1, rule.beta2), "eps": rule.epsilon, "weight_decay": rule.decay}
    return lambda tensors: torch().optim.AdamW(tensors, lr=rate, **options)


@given(SEEDS, RATES, st.floats(0.01, 0.99), DECAYS, st.booleans())
@few
def test_momentum_with_and_without_nesterov(seed, rate, momentum, decay, nesterov):
    rule = SGD(rate, momentum, nesterov, decay)
    assert_same_steps(rule, sgd_of(rule, rate), seed)


@given(SEEDS, RATES, DECAYS)
@few
def test_plain_descent(seed, rate, decay):
    rule = SGD(rate, decay=decay)
    assert_same_steps(rule, sgd_of(rule, rate), seed)


@given(SEEDS, RATES, BETAS, BETAS, EPSILONS, DECAYS)
@few
def test_adamw(seed, rate, beta1, beta2, epsilon, decay):
    rule = AdamW(rate, beta1, beta2, epsilon, decay)
    assert_same_steps(rule, adamw_of(rule, rate), seed)


@given(SEEDS, RATES, BETAS, BETAS, EPSILONS)
@few
def test_adamw_without_decay_is_adam(seed, rate, beta1, beta2, epsilon):
    rule = AdamW(rate, beta1, beta2, epsilon, decay=0.0)
    assert_same_steps(rule, lambda tensors: torch().optim.Adam(tensors, lr=rate, betas=(beta1, beta2), eps=epsilon), seed)


@given(SEEDS, RATES, EPSILONS, DECAYS)
@few
def test_adagrad(seed, rate, epsilon, decay):
    rule = AdaGrad(rate, epsilon, decay)
    assert_same_steps(rule, lambda tensors: torch().optim.Adagrad(tensors, lr=rate, eps=epsilon, weight_decay=decay), seed)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@given(seed=SEEDS, longest=st.floats(1.0, 10.0))
@few
def test_clipping_to_a_norm_of_all_parameters_together(name, seed, longest):
    """PyTorch divides by the norm + 1e-6, so it is that much shorter; norms here are about 6, some clipped and some not."""
    rule = SGD(0.1, momentum=0.9) if name == "sgd" else AdamW(0.1, epsilon=1e-3)
    make = sgd_of(rule, 0.1) if name == "sgd" else adamw_of(rule, 0.1)
    assert_same_steps(Clipped(rule, longest), make, seed, relative=1e-6, longest=longest)


def warmed(steps, then):
    """PyTorch's schedule whose factor climbs to 1 in `steps` steps and is `then(k)` k steps later."""
    return lambda optimizer: torch().optim.lr_scheduler.LambdaLR(optimizer, lambda k: (k + 1) / steps if k < steps else then(k - steps))


def half_cosine(steps):
    return lambda k: (1 + math.cos(math.pi * min(k, steps) / steps)) / 2


SCHEDULES = {
    "constant": (Constant(0.3), lambda o: torch().optim.lr_scheduler.ConstantLR(o, factor=1.0), 20),
    "step": (Steps(0.3, every=7, factor=0.5), lambda o: torch().optim.lr_scheduler.StepLR(o, 7, 0.5), 60),
    "step of one": (Steps(0.3, every=1, factor=0.9), lambda o: torch().optim.lr_scheduler.ExponentialLR(o, 0.9), 60),
    "cosine": (Cosine(0.3, 50), lambda o: torch().optim.lr_scheduler.CosineAnnealingLR(o, 50), 50),
    "cosine to a floor": (Cosine(0.3, 37, 0.01), lambda o: torch().optim.lr_scheduler.CosineAnnealingLR(o, 37, 0.01), 37),
    "warm-up": (Warmup(Constant(0.3), 9), warmed(9, lambda k: 1.0), 30),
    "warm-up of one": (Warmup(Constant(0.3), 1), warmed(1, lambda k: 1.0), 30),
    "warm-up, cosine": (Warmup(Cosine(0.3, 40), 9), warmed(9, half_cosine(40)), 60),
    "warm-up, step": (Warmup(Steps(0.3, 5), 4), warmed(4, lambda k: 0.1 ** (k // 5)), 30),
}
"""Name -> (rate, PyTorch's schedule over an optimizer of rate 0.3, the last step at which both are defined alike).

Behind its end PyTorch's cosine climbs again, where ours stays at the floor.
"""


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_pytorchs_schedules(name):
    rate, schedule, last = SCHEDULES[name]
    optimizer = torch().optim.SGD([torch().nn.Parameter(torch().zeros(1))], lr=0.3)
    scheduler, found = schedule(optimizer), []
    for _ in range(last + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose([rate(step) for step in range(last + 1)], found, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rule", [SGD(0.0, momentum=0.9, decay=0.1), AdamW(0.0, decay=0.1)], ids=["sgd", "adamw"])
def test_rules_follow_their_schedule_as_pytorchs_do(name, rule):
    """Decoupled decay takes the rate of its step, momentum remembers gradients and not steps."""
    rate, schedule, _ = SCHEDULES[name]
    assert isinstance(rate, Rate)
    if isinstance(rule, SGD):
        scheduled, make = SGD(rate, rule.momentum, decay=rule.decay), sgd_of(rule, 0.3)
    else:
        scheduled, make = AdamW(rate, decay=rule.decay), adamw_of(rule, 0.3)
    assert_same_steps(scheduled, make, 5, schedule=schedule)
