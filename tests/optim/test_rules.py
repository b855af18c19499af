"""Every rule against its textbook, written once more here as plainly as numpy allows."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.optim import LAMB, LARS, SGD, AdaGrad, AdamW, Clipped, Scratch, apply_whole
from tests.laws import RuleLaws


class TestPlainSGD(RuleLaws):
    def make(self, rate):
        return SGD(rate)

    def textbook(self, p, gradients, rates):
        for g, rate in zip(gradients, rates, strict=True):
            p = p - rate * g
        return p


class TestSGDWithDecay(RuleLaws):
    def make(self, rate):
        return SGD(rate, decay=0.05)

    def textbook(self, p, gradients, rates):
        for g, rate in zip(gradients, rates, strict=True):
            p = p - rate * (g + 0.05 * p)
        return p


class TestMomentum(RuleLaws):
    def make(self, rate):
        return SGD(rate, momentum=0.9, decay=0.01)

    def textbook(self, p, gradients, rates):
        v = 0
        for g, rate in zip(gradients, rates, strict=True):
            v = 0.9 * v + g + 0.01 * p
            p = p - rate * v
        return p


class TestNesterov(RuleLaws):
    def make(self, rate):
        return SGD(rate, momentum=0.9, nesterov=True, decay=0.01)

    def textbook(self, p, gradients, rates):
        v = 0
        for g, rate in zip(gradients, rates, strict=True):
            g = g + 0.01 * p
            v = 0.9 * v + g
            p = p - rate * (g + 0.9 * v)
        return p


class TestAdamW(RuleLaws):
    def make(self, rate):
        return AdamW(rate, beta1=0.8, beta2=0.95, epsilon=1e-6, decay=0.1)

    def textbook(self, p, gradients, rates):
        m = v = 0
        for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
            m = 0.8 * m + 0.2 * g
            v = 0.95 * v + 0.05 * g**2
            p = p - rate * 0.1 * p
            p = p - rate * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        return p


class TestAdaGrad(RuleLaws):
    def make(self, rate):
        return AdaGrad(rate, epsilon=1e-6, decay=0.1)

    def textbook(self, p, gradients, rates):
        s = 0
        for g, rate in zip(gradients, rates, strict=True):
            g = g + 0.1 * p
            s = s + g**2
            p = p - rate * g / (np.sqrt(s) + 1e-6)
        return p


def lars_of_the_paper(p, gradients, rates, parts, *, momentum, decay, trust):
    """You, Gitman and Ginsburg 2017, algorithm 1, with the coefficient of its equation 6."""
    w, v = [p[part] for part in parts], [np.zeros_like(p[part]) for part in parts]
    for gradient, rate in zip(gradients, rates, strict=True):
        for layer, part in enumerate(parts):
            g = gradient[part]
            local = trust * np.linalg.norm(w[layer]) / (np.linalg.norm(g) + decay * np.linalg.norm(w[layer]))
            v[layer] = momentum * v[layer] + rate * local * (g + decay * w[layer])
            w[layer] = w[layer] - v[layer]
    return np.concatenate(w)


def lamb_of_the_paper(p, gradients, rates, parts, *, beta1, beta2, epsilon, decay):
    """You et al. 2020, algorithm 2, phi being the identity."""
    x = [p[part] for part in parts]
    m, v = ([np.zeros_like(p[part]) for part in parts] for _ in range(2))
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for layer, part in enumerate(parts):
            g = gradient[part]
            m[layer] = beta1 * m[layer] + (1 - beta1) * g
            v[layer] = beta2 * v[layer] + (1 - beta2) * g**2
            r = (m[layer] / (1 - beta1**t)) / (np.sqrt(v[layer] / (1 - beta2**t)) + epsilon)
            d = r + decay * x[layer]
            x[layer] = x[layer] - rate * np.linalg.norm(x[layer]) / np.linalg.norm(d) * d
    return np.concatenate(x)


class TestLARS(RuleLaws):
    OPTIONS: ClassVar = {"momentum": 0.9, "decay": 0.1, "trust": 0.02}

    def make(self, rate):
        return LARS(rate, **self.OPTIONS)

    def textbook(self, p, gradients, rates):
        return lars_of_the_paper(p, gradients, rates, self.parts, **self.OPTIONS)


class TestLAMB(RuleLaws):
    OPTIONS: ClassVar = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "decay": 0.1}

    def make(self, rate):
        return LAMB(rate, **self.OPTIONS)

    def textbook(self, p, gradients, rates):
        return lamb_of_the_paper(p, gradients, rates, self.parts, **self.OPTIONS)


class TestClippedLAMB(TestLAMB):
    """Clipping comes first: the norms that the rule judges by are those of the clipped gradient."""

    def make(self, rate):
        return Clipped(super().make(rate), norm=2.0)

    def textbook(self, p, gradients, rates):
        return super().textbook(p, gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None], rates)


class TestClippedLARS(TestLARS):
    """As above."""

    def make(self, rate):
        return Clipped(super().make(rate), norm=2.0)

    def textbook(self, p, gradients, rates):
        return super().textbook(p, gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None], rates)


class TestClippedMomentum(RuleLaws):
    def make(self, rate):
        return Clipped(SGD(rate, momentum=0.9), norm=2.0)

    def textbook(self, p, gradients, rates):
        shorter = gradients * np.minimum(1, 2.0 / np.linalg.norm(gradients, axis=1))[:, None]
        v = 0
        for g, rate in zip(shorter, rates, strict=True):
            v = 0.9 * v + g
            p = p - rate * v
        return p


LAWS = RuleLaws()
SEEDS, RATES, DECAYS = st.integers(0, 2**32 - 1), st.floats(1e-4, 0.1), st.sampled_from([0.0, 1e-4, 0.1])


@given(SEEDS, RATES, st.floats(0, 0.99), DECAYS, st.floats(1e-3, 0.1))
def test_lars_is_the_papers_whatever_its_options(seed, rate, momentum, decay, trust):
    p, gradients = LAWS.case(seed)
    expected = lars_of_the_paper(p, gradients, [rate] * len(gradients), LAWS.parts, momentum=momentum, decay=decay, trust=trust)
    found = LAWS.run(LARS(rate, momentum=momentum, decay=decay, trust=trust), p, gradients)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(SEEDS, RATES, st.floats(0, 0.99), st.floats(0, 0.999), st.sampled_from([1e-8, 1e-6, 1e-3]), DECAYS)
def test_lamb_is_the_papers_whatever_its_options(seed, rate, beta1, beta2, epsilon, decay):
    p, gradients = LAWS.case(seed)
    options = {"beta1": beta1, "beta2": beta2, "epsilon": epsilon, "decay": decay}
    expected = lamb_of_the_paper(p, gradients, [rate] * len(gradients), LAWS.parts, **options)
    np.testing.assert_allclose(LAWS.run(LAMB(rate, **options), p, gradients), expected, rtol=1e-9, atol=1e-9)


def test_a_gradient_within_the_norm_is_left_alone_to_the_bit():
    p, gradients = LAWS.case()
    np.testing.assert_array_equal(LAWS.run(Clipped(SGD(0.1), 100.0), p, gradients), LAWS.run(SGD(0.1), p, gradients))


def test_a_clipped_gradient_has_the_norm_and_its_own_direction():
    gradient = np.array([3.0, 4.0])
    data = np.zeros(2)
    apply_whole(Clipped(SGD(1.0), 1.0), data, gradient, np.zeros((0, 2)), 0, Scratch(data, [slice(0, 2)]))
    np.testing.assert_allclose(data, [-0.6, -0.8], rtol=1e-15)


def test_clipping_shows_the_inner_rules_rate_and_state():
    rule = Clipped(AdamW(0.3), 1.0)
    assert (rule.rate, rule.slots) == (0.3, 2)


def test_a_part_that_is_zero_moves_under_lars():
    p, g = np.zeros(4), np.ones(4)
    apply_whole(LARS(0.5), p, g, np.zeros((1, 4)), 0, Scratch(p, [slice(0, 4)]))
    np.testing.assert_array_equal(p, -0.5)


def test_a_part_that_is_zero_moves_under_lamb():
    p, g = np.zeros(4), np.ones(4)
    apply_whole(LAMB(0.5, epsilon=0.0), p, g, np.zeros((2, 4)), 0, Scratch(p, [slice(0, 4)]))
    np.testing.assert_allclose(p, -0.5)


def test_the_size_of_a_gradient_does_not_matter_to_lamb():
    p, gradients = LAWS.case()
    one, large = (LAWS.run(LAMB(0.1, epsilon=0.0), p, gradients * scale) for scale in (1.0, 1024.0))
    np.testing.assert_allclose(large, one, rtol=1e-12)


def test_no_momentum_keeps_no_state():
    assert SGD(0.1).slots == 0
    assert SGD(0.1, momentum=0.9).slots == 1
    assert repr(SGD(0.1)) != repr(SGD(0.1, momentum=0.9))


@pytest.mark.parametrize("n", [0, 1, 5, 12])
@pytest.mark.parametrize("block", [1, 4, 12, 99])
def test_blocks_cover_the_vector_once_with_scratch_of_their_length(monkeypatch, n, block):
    monkeypatch.setattr("hpcml.optim.blocks.BLOCK", block)
    work = Scratch(np.zeros(n), [])
    for whole in (slice(0, n), slice(n // 3, n)):
        covered = []
        for span in work.spans(whole):
            assert 0 < span.stop - span.start <= min(block, len(work.memory))
            covered += range(span.start, span.stop)
        assert covered == list(range(whole.start, whole.stop))
