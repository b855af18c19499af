"""A rule over blocks: the same as over the whole, and nothing allocated after the first step."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from hpcml.optim import LAMB, LARS, SGD, AdamW, Clipped, Scratch, apply, apply_whole

RULES = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9, decay=0.01),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": AdamW(0.01),
    "lars": LARS(0.1, decay=0.01),
    "lamb": LAMB(0.01),
    "clipped": Clipped(SGD(0.1, momentum=0.9), 1.0),
    "clipped lamb": Clipped(LAMB(0.01), 1.0),
}
PARTS = [slice(0, 60_000), slice(60_000, 100_003)]
N = PARTS[-1].stop


def start(rule):
    random = np.random.default_rng(3)
    data, gradient = random.standard_normal((2, N)).astype(np.float32)
    return data, gradient, np.zeros((rule.slots, N), np.float32), Scratch(data, PARTS)


@pytest.mark.parametrize("name", RULES)
def test_a_step_allocates_nothing_of_a_vectors_length_after_the_first(name):
    rule = RULES[name]
    data, gradient, state, work = start(rule)
    grad = gradient.copy()
    apply_whole(rule, data, grad, state, 0, work)
    tracemalloc.start()
    try:
        for step in range(1, 6):
            np.copyto(grad, gradient)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            apply_whole(rule, data, grad, state, step, work)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 8192, f"{peak} bytes in step {step}; a block has {work.memory.nbytes}, a vector {data.nbytes}"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", RULES)
def test_blocks_change_nothing(name):
    rule = RULES[name]
    data, gradient, state, work = start(rule)
    whole, states = data.copy(), state.copy()
    one = Scratch(whole, PARTS)
    one.memory = np.zeros(N, np.float32)
    for step in range(3):
        apply_whole(rule, data, gradient.copy(), state, step, work)
        grad = gradient.copy()
        look = rule.look(whole, grad, states, step, one) if rule.looks else None
        apply(rule, whole, [(slice(0, N), grad)], states, step, one, look)
    np.testing.assert_array_equal(data, whole)
    np.testing.assert_array_equal(state, states)
