"""The benchmark of collectives at tiny size: its numbers, its refusals, its files; never how fast anything is."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from hpcml.bench.collectives import measure, report, table_lines
from hpcml.bench.contestants import CONTESTANTS, LIMITS, Contestant, select
from hpcml.bench.picture import draw
from hpcml.bench.sizes import counted, parse_sizes, shown_bytes
from hpcml.comm import simulated
from hpcml.comm.choice import Table
from hpcml.comm.costs import cost
from hpcml.comm.levels import lanes
from hpcml.comm.roads import ROADS, number_type
from hpcml.errors import CommError, ConfigError
from tests.mpirun import start


def bench(comm, names=(), sizes=(256, 1024), dtype="float32"):
    kind = number_type(dtype)
    return report(comm, measure(comm, select(names), sizes, 2, kind), 2, kind)


@pytest.mark.parametrize("hosts", [["a"] * 3, ["a", "a", "b"], ["a", "b", "c"]], ids=["one node", "uneven", "a rank a node"])
def test_every_road_and_limit_has_a_row_for_every_size(hosts):
    reports = simulated.run(3, bench, hosts=hosts)
    assert all(found["rows"] == reports[0]["rows"] for found in reports)
    found = reports[0]
    limits = [one.name for one in LIMITS if one.name != "link" or len(set(hosts)) > 1]
    assert [(row["bytes"], row["name"]) for row in found["rows"]] == [
        (size, name) for size in (256, 1024) for name in [*ROADS, "node arena", *limits]
    ]
    for row in found["rows"]:
        assert row["seconds"] >= row["fastest"] > 0
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert (row["share"] is None) == row["limit"]
    assert (found["ranks"], found["nodes"], found["hosts"]) == (3, len(set(hosts)), list(dict.fromkeys(hosts)))
    assert {"python", "numpy", "hpcml", "mpi"} <= set(found["versions"])


def test_bytes_sent_are_those_of_the_schedule():
    rows = simulated.run(4, bench, hosts=["a", "a", "b", "b"])[0]["rows"]
    by_name = {row["name"]: row for row in rows if row["bytes"] == 1024}
    assert by_name["ring"]["sent"] == by_name["ring"]["bound"] == 1536
    assert by_name["lanes"]["sent"] == 4 * cost(lanes([0, 0, 1, 1]), 4, 256).elements
    assert by_name["all-reduce"]["sent"] is None


def test_sixteen_bits_count_what_travels():
    rows = simulated.run(2, partial(bench, names=["ring"], sizes=[1024], dtype="float16"))[0]["rows"]
    assert rows[0]["sent"] == 2048


def test_the_nodes_memory_adds_no_sixteen_bits():
    rows = simulated.run(2, partial(bench, names=["ring", "node arena"], sizes=[1024], dtype="float16"))[0]["rows"]
    assert "node arena" not in {row["name"] for row in rows}


def test_one_rank_alone_can_be_measured():
    found = simulated.run(1, bench)[0]
    assert len(found["rows"]) == 2 * (len(ROADS) + 1 + 2)
    assert table_lines(found)


def test_a_report_is_a_table_for_the_choice():
    found = simulated.run(2, bench)[0]
    table = Table.from_json(json.dumps(found), "here")
    assert set(table.seconds) == set(ROADS)
    assert all(set(times) == {256, 1024} for times in table.seconds.values())


def test_the_lines_name_everything_and_the_fastest_stands_first():
    found = simulated.run(2, bench)[0]
    text = "\n".join(table_lines(found))
    assert all(name in text for name in [*ROADS, "(plain copy)", "256 B", "1 KB", "2 ranks on 1 node"])


def test_a_contestant_that_sums_wrongly_is_refused_on_every_rank():
    def lazy(comm, x):
        return lambda: None

    refusals = []

    def program(comm):
        try:
            measure(comm, [Contestant("lazy", lazy)], [64], 1)
        except CommError as error:
            refusals.append(str(error))

    simulated.run(2, program)
    assert len(refusals) == 2
    assert all("lazy: the sum of 16 float32 over 2 ranks is wrong" in said for said in refusals)


def test_a_contestant_may_return_its_sum_and_bring_its_own_memory():
    made = []

    def memory(comm, n, dtype):
        made.append(n)
        return np.zeros(n, dtype)

    def make(comm, x):
        def run():
            total = x.copy()
            comm.all_reduce(total)
            return total

        return run

    rows = simulated.run(2, lambda comm: measure(comm, [Contestant("own", make, memory)], [64], 1))[0]
    assert rows[0].name == "own"
    assert rows[0].sent is None
    assert made == [16, 16]


def test_sizes_below_an_element_are_one_size():
    rows = simulated.run(2, partial(bench, names=["ring"], sizes=[1, 2, 3, 6, 7]))[0]["rows"]
    assert [row["bytes"] for row in rows if row["name"] == "ring"] == [0, 4]


def test_without_shared_memory_the_node_arena_is_left_out_and_the_rest_measured(monkeypatch):
    monkeypatch.setattr("hpcml.comm.simulated.SimulatedCommunicator.shared_blocks", lambda self, nbytes: None)
    monkeypatch.setattr("hpcml.comm.simulated.SimulatedCommunicator.shortage", "no room here")

    def program(comm):
        said = []
        return [row.name for row in measure(comm, select([]), [64], 1, say=said.append)], said

    for names, said in simulated.run(2, program):
        assert "node arena" not in names
        assert set(ROADS) < set(names)
        assert said == ["node arena is left out at 64 B: no room here"]


@pytest.mark.slow
def test_the_command_goes_on_where_memory_may_not_be_shared(mpirun, tmp_path):
    words = ("bench", "collectives", "--sizes", "4K", "--repeats", "1", "--roads", "ring,node arena")
    result = mpirun(2, *words, cwd=tmp_path, env={"HPCML_SHARED_BYTES": "0"}).check()
    assert "note: node arena is left out at 4 KB: the ranks on " in result.stdout
    assert "HPCML_SHARED_BYTES allows 0.0 MB; raise it" in result.stdout


def test_contestants_are_selected_by_name():
    assert [one.name for one in select(["ring", "lanes"])] == ["ring", "lanes"]
    assert select([]) == CONTESTANTS
    with pytest.raises(ConfigError, match=r"unknown road 'rings'; choose from all-reduce, ring"):
        select(["rings"])


@pytest.mark.parametrize(("text", "sizes"), [("4K,1M", [4096, 1 << 20]), ("64kb, 8,2G", [8, 65536, 2 << 30]), ("1,1", [1])])
def test_sizes_are_read(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "4Q", "0", "-4K", "1.5M", "4K,,1M"])
def test_a_size_that_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match="cannot be read; give bytes such as"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (65536, "64 KB"), (1536 * 1024, "1.5 MB"), (3 << 40, "3072 GB")]
)
def test_sizes_are_shown(nbytes, text):
    assert shown_bytes(nbytes) == text


def test_things_are_counted():
    assert [counted(number, "rank") for number in (0, 1, 2)] == ["0 ranks", "1 rank", "2 ranks"]


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert draw(simulated.run(2, bench)[0], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert not draw(simulated.run(1, bench)[0], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_the_command_prints_and_keeps_a_report(mpirun, tmp_path):
    result = mpirun(2, "bench", "collectives", "--sizes", "4K", "--repeats", "2", "--roads", "all-reduce,ring", cwd=tmp_path).check()
    assert "of limit" in result.stdout
    found = json.loads((tmp_path / "runs" / "bench-collectives.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["all-reduce", "ring", "no synchronisation", "plain copy"]


@pytest.mark.slow
def test_tuning_keeps_the_table_where_it_is_read(mpirun, tmp_path):
    env = {"HPCML_COLLECTIVES": str(tmp_path / "mine" / "table.json")}
    result = mpirun(2, "bench", "collectives", "--tune", "--sizes", "4K,32K", "--repeats", "2", cwd=tmp_path, env=env).check()
    assert "auto from 4 KB: all-reduce (below 16 KB)" in result.stdout
    assert set(Table.from_json((tmp_path / "mine" / "table.json").read_text(), "").seconds) == set(ROADS)


REFUSED = {
    "an unknown road": (["--roads", "rings"], "unknown road 'rings'"),
    "a wrong size": (["--sizes", "4Q"], "size '4Q' cannot be read"),
    "no repeats": (["--repeats", "0"], "--repeats is 0; give 1 or more"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_command_line_is_refused_once(words, message, mpirun, tmp_path):
    result = mpirun(2, "bench", "collectives", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count(message) == 1


@pytest.mark.slow
def test_the_comparison_with_peers_runs(repository, tmp_path):
    out = tmp_path / "rows.json"
    start(2, repository / "benchmarks" / "collectives.py", "--sizes", "4K", "--repeats", "1", "--out", out, cwd=tmp_path).wait(200).check()
    assert {"MPI_Allreduce", "ring"} <= {row["name"] for row in json.loads(out.read_text())["rows"]}
