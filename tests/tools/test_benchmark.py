"""The benchmark: what is made of samples, rows in processes of their own, the command, and the plots.

No figure is judged here; only that it is what was measured.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"

if not (TOOLS / "benchmark").is_dir():
    pytest.skip("not run from the source tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

from benchmark import report  # noqa: E402
from benchmark.isolation import Failure, Step, isolated  # noqa: E402
from benchmark.model import QUICK, Context, Entry, Other, Row, Target  # noqa: E402
from benchmark.rows import ROWS  # noqa: E402

# --- entries, and what is made of them


def _entry(**more: Any) -> Entry:
    fields: dict[str, Any] = {
        "part": "",
        "title": "a | b",
        "unit": "ns",
        "ours": (100.0, 200.0, 300.0),
        "ours_name": "ours",
        "peer": (200.0, 800.0, 900.0),
        "peer_name": "theirs",
        "target": Target("ratio", at_most=0.4),
    }
    return Entry(**{**fields, **more})


def test_the_ratio_is_that_of_the_rounds() -> None:
    form = _entry().json("B1")
    assert (form["ours"], form["peer"], form["ratio"], form["met"]) == (200.0, 800.0, 0.3333, True)
    assert form["spread"]["ratio"] == [0.2917, 0.4167]
    alone = _entry(peer=None, peer_name=None, target=Target("ours", at_least=201.0)).json("B1")
    assert (alone["ratio"], alone["met"], alone["peer"]) == (None, False, None)
    assert _entry(target=None).json("B1")["met"] is None


@pytest.mark.parametrize(
    ("target", "good", "bad"),
    [
        (Target("ratio", at_most=1.0), [0.5, 1.0], [1.01]),
        (Target("ratio", at_least=2.5), [2.5, 9.0], [2.49]),
        (Target("ratio", at_least=1.0, at_most=1.5), [1.0, 1.5], [0.99, 1.51]),
    ],
)
def test_targets(target: Target, good: list[float], bad: list[float]) -> None:
    assert all(target.met(value) for value in good)
    assert not any(target.met(value) for value in bad)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (12.34, "ns", "12.3 ns"),
        (1234.0, "ns", "1.23 µs"),
        (0.25, "us", "250 ns"),
        (2_500.0, "ms", "2.5 s"),
        (1_234_567.0, "op/s", "1.23 M op/s"),
        (12_345.0, "names/s", "12.3 k names/s"),
        (448.0, "B", "448 B"),
        (None, "ns", ""),
    ],
)
def test_figures_for_people(value: float | None, unit: str, shown: str) -> None:
    assert report.human(value, unit) == shown


RESULTS_HEAD = {
    "cpu": "a cpu",
    "cores": 2,
    "memory": "1 kB",
    "kernel": "Linux",
    "python": "CPython",
    "libc": "glibc",
    "time": "now",
    "versions": {"lmdb": "1"},
}


def _results(*forms: dict[str, Any]) -> dict[str, Any]:
    return {"rows": list(forms), "machine": RESULTS_HEAD, "effort": "quick run"}


def test_markdown_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    results = _results(_entry(others=[Other("third", (50.0,))], notes=["a note"], skipped=["gone: why"]).json("B1"))
    path = tmp_path / "new.md"
    report.write_markdown(results, str(path))
    fresh = path.read_text(encoding="utf-8")
    assert "| B1 | a \\| b | 200 ns | 800 ns, theirs | 0.33 (0.29 to 0.42) | ratio <= 0.4 | yes |" in fresh
    assert "| third | 50 ns | x 0.25 |" in fresh
    assert "* B1: a note" in fresh
    assert "* B1: not measured: gone: why" in fresh
    path.write_text(f"before\n\n{fresh}\nafter\n", encoding="utf-8")
    report.write_markdown(_results(_entry(ours=(1.0,), peer=(2.0,)).json("B1")), str(path))
    again = path.read_text(encoding="utf-8")
    assert again.startswith(f"before\n\n{report.BEGIN}\n")
    assert again.endswith(f"{report.END}\n\nafter\n")
    assert "200 ns" not in again
    path.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="not overwritten"):
        report.write_markdown(results, str(path))
    assert path.read_text(encoding="utf-8") == "no marks"


# --- rows in processes of their own


def _two(context: Context) -> Iterator[Entry]:
    context.tell("half", 0.5)
    yield _entry()
    raise RuntimeError("then it broke")


def _dying(context: Context) -> Iterator[Entry]:
    os._exit(7)
    yield _entry()


def test_a_row_that_fails_keeps_what_it_found(tmp_path: Path) -> None:
    events = list(isolated(Row("B99", "two", _two), QUICK, str(tmp_path), False))
    assert events[0] == Step("half", 0.5)
    assert isinstance(events[1], dict)
    assert events[1]["row"] == "B99"
    assert isinstance(events[2], Failure)
    assert events[2].reason == "RuntimeError: then it broke"
    assert len(events) == 3


def test_a_row_whose_process_dies_is_a_failure(tmp_path: Path) -> None:
    (event,) = isolated(Row("B99", "dying", _dying), QUICK, str(tmp_path), False)
    assert isinstance(event, Failure)
    assert "7" in event.reason
    assert multiprocessing.active_children() == []


# --- the command


def _bench(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLS), *(path for path in sys.path if path)])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE * 2,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_run_writes_what_it_measured(tmp_path: Path) -> None:
    file, table = tmp_path / "new" / "results.json", tmp_path / "table.md"
    done = _bench("--quick", "--rounds", "3", "--only", "B2,b13", "--json", str(file), "--markdown", str(table))
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["machine"]["cores"] >= 1
    assert results["machine"]["kernel"].startswith("Linux ")
    assert results["machine"]["versions"]["msgpack"]
    assert [(row["row"], row["part"]) for row in results["rows"]] == [
        ("B2", "with"),
        ("B2", "acquire, release"),
        ("B13", "increment"),
        ("B13", "inner"),
    ]
    for row in results["rows"]:
        samples = row["samples"]
        assert row["error"] is None
        assert row["unit"] == "ns"
        assert row["peer_name"]
        assert len(samples["ours"]) == len(samples["peer"]) == 3
        assert row["ours"] == pytest.approx(statistics.median(samples["ours"]), rel=1e-3)
        assert row["peer"] == pytest.approx(statistics.median(samples["peer"]), rel=1e-3)
        each = [ours / peer for ours, peer in zip(samples["ours"], samples["peer"], strict=True)]
        assert row["ratio"] == pytest.approx(statistics.median(each), rel=1e-3)
        bounds = Target(**row["bounds"])
        assert row["met"] == bounds.met(statistics.median(each))
    limits = [other for other in results["rows"][0]["peers"] if other["limit"]]
    assert [limit["name"] for limit in limits] == ["C limit"]
    assert "with lock: pass" in done.stdout
    assert table.read_text(encoding="utf-8").count("| B2 |") == 2
    again = _bench("--from", str(file))
    assert again.stdout == done.stdout


def test_an_unknown_row_is_refused() -> None:
    done = _bench("--only", "B1,B77", code=2)
    assert "no row B77" in done.stderr
    assert "B14" in done.stderr


def test_the_rows_are_those_of_the_table() -> None:
    assert list(ROWS)[:14] == [f"B{number}" for number in range(1, 15)]
    assert {"A1", "A2", "M1", "M2", "M3", "O1", "W1", "W2"} <= ROWS.keys()


@pytest.mark.slow
def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmark.plots import draw

    axes: dict[str, list[float]] = {
        "processes": [2, 4, 8],
        "percent": [50, 99, 99.9],
        "sizes": [8, 16, 32],
        "mutexes": [1, 10, 100],
    }
    series = {"FastMutex": [1.0, 2.0, 3.0], "theirs": [30.0, 40.0, 50.0]}
    others = [Other("C limit", (1.0, 1.0, 1.0), limit=True), Other("FastMutex.fetch_add", (9.0,), ours=True)]
    forms = [_entry(others=others, curves={kind: axis, "series": series}).json("B1") for kind, axis in axes.items()]
    forms.append(_entry(peer=None, peer_name=None, unit="MB", target=Target("ours", at_most=5.0)).json("B11"))
    paths = draw(_results(*forms), str(tmp_path))
    names = {"b1", "b11", "throughput", "waits", "sizes", "mutexes"}
    assert {Path(path).name for path in paths} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    for path in paths:
        with open(path, "rb") as file:
            begin = file.read(5)
        assert begin in (b"\x89PNG\r", b"<?xml")


def test_the_shell_can_read_the_tool() -> None:
    subprocess.run(["bash", "-n", str(TOOLS / "bench")], check=True, timeout=DEADLINE)
    assert os.access(TOOLS / "bench", os.X_OK)
