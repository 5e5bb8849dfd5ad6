"""The benchmarks' record: what is quoted of the rounds of several processes, and what was taken the old way."""

import json

import pytest

HEAD = {"processor": "a processor", "cpus": 2, "date": "2026-12-01", "scale": [], "means": []}


@pytest.fixture
def record(benches):
    return benches("record")


@pytest.fixture
def table(benches):
    return benches("table")


def row(case="Adam", workload="a2", **seconds):
    """A row of the record. One number is a process whose three rounds took 1, 2 and 3 times as long."""
    rounds = {name: [[k * t for k in (1, 2, 3)] for t in times] for name, times in seconds.items()}
    return {"workload": workload, "threads": 1, "case": case, "seconds": rounds, "missing": {}}


def test_the_median_over_processes_and_their_spread(record):
    seconds = {
        "optirs": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]],
        "C": [[1.1, 1.2, 9.0], [1.3, 1.4, 1.5], [2.0, 2.2, 9.0]],
    }
    result = record.result({"seconds": seconds})
    ratio = result.ratio("C", "optirs")
    assert (ratio.least, ratio.median, ratio.greatest) == (1.1, 1.2, 1.4)  # of 1.2, 1.4 and 1.1
    assert ratio.minima == 1.1  # of 1.1, 1.3 and 1.0
    assert str(ratio) == "1.20 [1.10-1.40]"
    assert result.median("C") == 1.4  # of 1.2, 1.4 and 2.2
    assert not result.old


def test_times_are_compared_within_a_set_of_processes_only(record):
    slow_second = row(optirs=[1, 9], C=[2, 18])["seconds"]
    assert record.result({"seconds": slow_second}).ratio("C", "optirs") == record.Ratio(2, 2, 2, 2)


def test_groups_add_processes_to_those_that_are_in_all(record):
    result = record.result(row(limit=[1, 1], optirs=[2, 2], C=[3, 3]), row(limit=[1, 1], optirs=[4, 4], numba=[8, 8]))
    assert result.ratio("optirs", "limit") == record.Ratio(3, 2, 4, 3)
    assert result.ratio("numba", "optirs").median == 2
    assert result.ratio("numba", "C") is None


def test_one_process_has_the_spread_of_its_rounds(record):
    result = record.result({"seconds": {"optirs": [[1.0, 1.0, 1.0]], "C": [[0.9, 1.1, 1.2]]}})
    assert result.ratio("C", "optirs") == record.Ratio(1.1, 0.9, 1.2, 0.9)


def test_a_record_of_the_old_way_is_one_process(record):
    old = {"seconds": {"optirs": [1.0, 2.0, 3.0], "C": [2.0, 4.0, 6.0]}, "missing": {"numba": "not installed"}}
    new = {"seconds": {name: [rounds] for name, rounds in old["seconds"].items()}, "missing": old["missing"]}
    assert record.result(old).old
    assert record.result(old).groups == record.result(new).groups
    assert record.result(old).missing == {"numba": "not installed"}


def test_records_in_the_repository_can_be_read(record, table):
    for file in record.FOLDER.glob("*.json"):
        found = record.read(file)
        marked = table.OLD in table.text(found)
        assert marked == any(result.old for result in record.results(found).values())


def test_level_is_what_has_one_between_its_processes(record):
    assert record.Ratio(1.02, 0.99, 1.04, 1).level
    assert record.Ratio(1.02, 1.0, 1.04, 1).level
    assert not record.Ratio(1.02, 1.01, 1.04, 1).level
    assert not record.Ratio(0.97, 0.95, 0.99, 1).level


def test_cells_say_level_instead_of_a_ratio(record, table):
    def cell(peer):
        return table.cell(record.result(row(limit=[1, 1], optirs=[1.01, 1.03], C=peer)), "optirs")

    assert cell([1.0, 1.04]) == "2.04s 1.02 [1.01-1.03] level C"
    assert cell([2.02, 2.06]) == "2.04s 1.02 [1.01-1.03] 2.00x C"
    assert cell([0.505, 0.515]) == "2.04s 1.02 [1.01-1.03] 0.50x C"


def test_a_peer_that_is_faster_throughout_is_the_best_one(record):
    result = record.result(row(optirs=[1, 1, 1], C=[0.8, 0.9, 1.1], numba=[0.95, 0.96, 0.97]))
    assert result.best_peer("optirs")[0] == "numba"
    assert record.result(row(optirs=[1, 1], C=[1.3, 1.4], numba=[1.2, 1.3])).best_peer("optirs")[0] == "numba"


def test_lists_of_peers_that_are_faster_and_of_those_that_are_level(table):
    rows = [
        row("Adam", optirs=[1, 1], C=[0.9, 0.94]),
        row("Lion", optirs=[1, 1], C=[0.9, 1.3]),
        row("RAdam", optirs=[1, 1], C=[4, 4]),
    ]
    lines = table.text(HEAD | {"results": rows}).splitlines()
    behind, level = lines.index("A peer is faster: 1"), lines.index("Level with the best peer: 1")
    assert lines[behind + 1 : level] == ["  Adam (a2, 1 thread): C 0.92 [0.90-0.94], of least times 0.92"]
    assert lines[level + 1] == "  Lion (a2, 1 thread): C 1.10 [0.90-1.30], of least times 1.10"
    assert lines[behind - 2].startswith("Best peer over optirs, geometric mean of 3: 1.59")
    assert table.OLD not in lines


def test_a_table_says_how_many_processes(table):
    new = row(optirs=[1, 1])
    old = row("Lion", workload="b", optirs=[1])
    old["seconds"]["optirs"] = [1.0, 2.0, 3.0]
    text = table.text(HEAD | {"results": [new, old]})
    assert "  2 processes  " in text
    assert "  1 process, the old way" in text
    assert table.OLD in text


def test_a_case_that_nobody_could_do_is_only_in_the_list_of_reasons(table):
    nobody = {**row(), "missing": {"optirs": "FAILED: the process ended"}}
    assert "  optirs FAILED: the process ended: Adam (a2, 1)" in table.text(HEAD | {"results": [nobody]})


def test_means_are_quoted_like_peers(benches):
    means = benches("means")
    rows = [
        row(**{"as it is": [1, 1, 1], "worst place": [1.2, 1.3, 1.5], "best place": [0.9, 1.0, 1.1]}),
        row(**{"as it is": [1, 1], "changed": [2, 2]}),
    ]
    one, two, three = means.lines({"means": [r | {"means": "places", "mode": "optirs, pure"} for r in rows]})
    assert one.split("  ")[1] == "places: worst place"
    assert one.endswith("Adam (a2, 1, pure)".ljust(48) + "1.30 [1.20-1.50]")
    assert two.endswith("1.00 [0.90-1.10] level")
    assert three.split("  ")[1] == "places"


def test_a_run_replaces_the_cases_that_it_measured(record, tmp_path):
    file = tmp_path / "record.json"
    record.merge(file, "results", [row("Adam", optirs=[1], C=[2]), row("Adam", optirs=[1], numba=[2]), row("Lion")])
    whole = record.merge(file, "results", [row("Adam", optirs=[3, 3, 3])])
    assert [r["case"] for r in whole["results"]] == ["Lion", "Adam"]
    assert whole["results"][1]["seconds"] == {"optirs": [[3, 6, 9]] * 3}
    assert record.read(file) == json.loads(file.read_text()) == json.loads(json.dumps(whole))
