from __future__ import annotations

import pytest

from hpcml.arrays import Device
from hpcml.bench.device import copy_row, rule_row
from hpcml.optim import LARS, SGD, AdamW


@pytest.mark.parametrize("device", [Device(), pytest.param(Device(0), marks=pytest.mark.gpu)])
def test_rows_are_numbers(device):
    assert copy_row(1000, device, 2)["gb_per_second"] > 0
    for rule in (SGD(0.1), SGD(0.1, momentum=0.9), AdamW(0.1), LARS(0.1)):
        row = rule_row(rule, 1000, device, 2)
        assert row["seconds"] > 0
        assert row["of_copy"] > 0
