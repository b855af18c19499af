"""Which road is chosen: pure arithmetic on a table, and the same choice on every rank."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcml.comm import simulated
from hpcml.comm.choice import FLOOR, MARGIN, Table, automatic, choose, crossovers, load_table, table_path
from hpcml.comm.roads import ROADS
from hpcml.errors import ConfigError

K, M = 1 << 10, 1 << 20
SECONDS = {
    "all-reduce": {16 * K: 10e-6, M: 800e-6, 64 * M: 70e-3},
    "ring": {16 * K: 20e-6, M: 600e-6, 64 * M: 30e-3},
    "halving": {16 * K: 15e-6, M: 500e-6, 64 * M: 40e-3},
}
TABLE = Table(4, 1, ("a",), SECONDS)


def text_of(seconds, ranks=4, nodes=1, hosts=("a",)):
    rows = [{"name": name, "bytes": size, "seconds": value} for name, times in seconds.items() for size, value in times.items()]
    return json.dumps({"ranks": ranks, "nodes": nodes, "hosts": hosts, "rows": rows})


@pytest.mark.parametrize("table", [None, TABLE, Table(9, 1, ("a",), SECONDS)])
@pytest.mark.parametrize("nbytes", [0, 1, FLOOR - 1])
def test_short_vectors_fall_through_to_the_library(nbytes, table):
    assert choose(nbytes, 4, 1, table).name == "all-reduce"


def test_one_rank_needs_no_road():
    assert choose(64 * M, 1, 1, TABLE).name == "all-reduce"


@pytest.mark.parametrize("name", ["ring", "halving"])
def test_the_fastest_measured_road_is_taken(name):
    size = {"ring": 64 * M, "halving": M}[name]
    choice = choose(size, 4, 1, TABLE)
    assert choice.name == name
    assert "measured on a" in choice.reason


@given(st.integers(FLOOR, 1 << 32))
def test_a_choice_is_never_clearly_slower_than_the_best(nbytes):
    times = TABLE.estimate(nbytes)
    assert times[choose(nbytes, 4, 1, TABLE).name] <= min(times.values()) / MARGIN * (1 + 1e-12)


@given(st.sampled_from(sorted(SECONDS)), st.sampled_from([16 * K, M, 64 * M]))
def test_an_estimate_at_a_measured_size_is_the_measurement(name, size):
    assert TABLE.estimate(size)[name] == pytest.approx(SECONDS[name][size])


@given(st.floats(MARGIN + 1e-6, 1.0))
def test_the_library_keeps_what_is_hardly_slower(factor):
    table = Table(2, 1, ("a",), {"all-reduce": {M: 1e-3}, "ring": {M: 1e-3 * factor}})
    assert choose(M, 2, 1, table).name == "all-reduce"


def test_a_road_measured_at_fewer_sizes_is_not_compared():
    table = Table(4, 1, ("a",), SECONDS | {"lanes": {16 * K: 1e-9}})
    assert choose(64 * M, 4, 1, table).name == "ring"


@pytest.mark.parametrize(("ranks", "nodes"), [(2, 1), (4, 2)])
def test_a_table_of_another_world_is_not_used_and_that_is_said(ranks, nodes):
    choice = choose(M, ranks, nodes, TABLE)
    assert choice.reason == f"by rule: the table is of 4 ranks on 1 nodes, this world has {ranks} on {nodes}"


def test_an_empty_table_falls_back_to_the_rule():
    assert choose(64 * M, 4, 1, Table(4, 1, ("a",), {})).reason == "by rule: the table has no rows"


@given(st.integers(0, 1 << 40), st.integers(1, 5000), st.integers(1, 500))
def test_the_rule_always_names_a_road(nbytes, ranks, nodes):
    assert choose(nbytes, ranks, min(nodes, ranks)).name in ROADS


@pytest.mark.parametrize(
    ("nbytes", "ranks", "nodes", "name"),
    [(M, 2, 1, "all-reduce"), (64 * M, 2, 1, "ring"), (64 * M, 8, 2, "lanes"), (64 * M, 8, 8, "all-reduce")],
)
def test_the_rule(nbytes, ranks, nodes, name):
    choice = choose(nbytes, ranks, nodes)
    assert choice.name == name
    assert "--tune" in choice.reason


def test_the_sizes_where_the_choice_changes():
    assert [(size, choice.name) for size, choice in crossovers(TABLE, [K, 16 * K, M, 4 * M, 64 * M])] == [
        (K, "all-reduce"),
        (M, "halving"),
        (64 * M, "ring"),
    ]


def test_where_the_table_stands():
    assert str(table_path({})) == "runs/collectives.json"
    assert str(table_path({"HPCML_COLLECTIVES": "elsewhere.json"})) == "elsewhere.json"


def test_every_rank_reads_the_same_table(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(text_of(SECONDS))
    assert simulated.run(3, lambda comm: load_table(comm, path)) == [TABLE] * 3
    assert simulated.run(3, lambda comm: load_table(comm, tmp_path / "none.json")) == [None] * 3


BROKEN = {
    "not JSON": "{",
    "no rows": '{"ranks": 2, "nodes": 1, "hosts": []}',
    "a list": "[]",
    "a time of zero": text_of({"ring": {M: 0.0}}),
    "a size that is no number": text_of({"ring": {"x": 1.0}}),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_table_is_refused_on_every_rank_with_the_remedy(text, tmp_path):
    path = tmp_path / "t.json"
    path.write_text(text)
    refusals = []

    def program(comm):
        try:
            load_table(comm, path)
        except ConfigError as error:
            refusals.append((str(error), error.everywhere))

    simulated.run(3, program)
    assert len(refusals) == 3
    assert all(everywhere and f"{path}: no table of collectives" in said and "--tune" in said for said, everywhere in refusals)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no table of collectives"):
        simulated.run(2, lambda comm: load_table(comm, tmp_path / "t.json"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_auto_says_what_it_chose_and_sums(dtype):
    """16-bit floats travel as float32, so they are chosen for as that."""
    said = []

    def program(comm):
        x = np.full(M // 4, comm.rank, dtype)
        automatic(TABLE, said.append)(comm, x)()
        return x

    for x in simulated.run(4, program):
        assert (x == 6).all()
    assert said == ["auto: halving (measured on a: 500 us) for 1,048,576 bytes on 4 ranks"] * 4
