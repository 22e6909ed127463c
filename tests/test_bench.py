"""The benchmark: how it measures, what it computes, and that a run of it reports what it found.

No figure is judged here; only that it is what was measured.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import DEADLINE

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"

if not (TOOLS / "benchmark").is_dir():
    pytest.skip("not run from the source tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

from benchmark import report  # noqa: E402
from benchmark.figures import median, percentile, quartiles, ratios, rounded  # noqa: E402
from benchmark.isolation import Failure, Step, isolated  # noqa: E402
from benchmark.measure import Case, calibrate, interleave  # noqa: E402
from benchmark.model import QUICK, Context, Entry, Other, Row, Target  # noqa: E402
from benchmark.peers import OTHERS, PEERS, FastMutexPeer, FetchAddPeer, LimitPeer, LockPeer, Peer  # noqa: E402
from benchmark.rows import ROWS  # noqa: E402
from benchmark.rows.common import opened  # noqa: E402
from benchmark.workers import Child, ChildFailed, hammer, say, together  # noqa: E402

from wdkmutex_shm._limit import Limit, copy  # noqa: E402

figures = st.floats(min_value=1e-6, max_value=1e9)


class FakeTime:
    """A clock that only work moves on; each piece of work has a cost of its own, and is written down."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, int]] = []

    def clock(self) -> int:
        return self.now

    def work(self, name: str, cost: int) -> Callable[[int], None]:
        def run(n: int) -> None:
            self.log.append((name, n))
            self.now += cost * n

        return run


# --- figures


@given(st.lists(figures, min_size=1, max_size=50))
def test_median_and_quartiles_are_in_order_and_within_the_values(values: list[float]) -> None:
    low, high = quartiles(values)
    assert min(values) <= low <= median(values) <= high <= max(values)


@given(st.lists(figures, min_size=1, max_size=50), st.floats(min_value=0, max_value=100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], p: float) -> None:
    found = percentile(values, p)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= p * len(values) * (1 - 1e-12)
    less = [value for value in values if value < found]
    assert not less or sum(value <= max(less) for value in values) * 100 < p * len(values)


def test_percentiles_by_hand() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (0, 1, 50, 99, 99.5, 100)] == [1, 1, 50, 99, 100, 100]


@given(st.lists(st.tuples(figures, figures), min_size=1, max_size=30), figures)
def test_a_slow_round_of_both_changes_no_ratio(pairs: list[tuple[float, float]], slow: float) -> None:
    ours, peer = [a for a, _ in pairs], [b for _, b in pairs]
    slowed = ratios([value * slow for value in ours], [value * slow for value in peer])
    assert slowed == pytest.approx(ratios(ours, peer))


def test_nothing_measured_is_an_error() -> None:
    for compute in (median, quartiles, lambda values: percentile(values, 50)):
        with pytest.raises(ValueError, match="nothing was measured"):
            compute([])
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], 101)
    with pytest.raises(ValueError, match="rounds"):
        ratios([1.0], [1.0, 2.0])


@given(figures)
def test_rounding_keeps_four_digits(value: float) -> None:
    assert rounded(value) == pytest.approx(value, rel=1e-3)


# --- measuring


def test_samples_are_taken_by_turns_and_say_what_one_costs() -> None:
    time = FakeTime()
    cases = [Case("a", time.work("a", 100)), Case("b", time.work("b", 2_500)), Case("c", time.work("c", 1_000_000))]
    ticks: list[int] = []
    found = interleave(cases, rounds=4, sample=0.001, clock=time.clock, tick=ticks.append)
    assert {name: samples.nanoseconds for name, samples in found.items()} == {
        "a": (100.0,) * 4,
        "b": (2_500.0,) * 4,
        "c": (1_000_000.0,) * 4,
    }
    assert {name: samples.loops for name, samples in found.items()} == {"a": 10_000, "b": 400, "c": 1}
    # Of each sample there is a short lead-in and the sample; a first round goes before the four that count.
    measured = time.log[-5 * 6 :]
    assert [name for name, _ in measured] == ["a", "a", "b", "b", "c", "c"] * 5
    assert [n for _, n in measured] == [1_000, 10_000, 40, 400, 1, 1] * 5
    assert ticks == [0, 1, 2, 3, 4]


@given(cost=st.integers(min_value=1, max_value=10**9), sample=st.sampled_from([1e-4, 1e-3, 1e-2]))
def test_a_sample_takes_as_long_as_asked_for(cost: int, sample: float) -> None:
    time = FakeTime()
    loops = calibrate(time.work("a", cost), sample, time.clock)
    assert loops == max(round(sample * 1e9 / cost), 1)
    assert sum(n * cost for _, n in time.log) <= max(3 * sample * 1e9, cost)  # finding it out takes not much longer


def test_the_garbage_collector_is_off_while_measuring_and_on_again() -> None:
    import gc

    seen: list[bool] = []

    def fail(n: int) -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("half-way")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="half-way"):
        interleave([Case("a", fail)], 1, 0.001)
    assert seen == [False]
    assert gc.isenabled()


def test_two_cases_of_one_name_are_refused() -> None:
    case = Case("a", lambda n: None)
    with pytest.raises(ValueError, match="one name"):
        interleave([case, case], 1, 0.001)
    with pytest.raises(ValueError, match="round"):
        interleave([case], 0, 0.001)


# --- processes


def _until(begin: int, end: int) -> tuple[int, int, int]:
    return os.getpid(), begin, end


def test_processes_run_together() -> None:
    found = together([_until] * 3, 0.25)
    assert len({pid for pid, _, _ in found} - {os.getpid()}) == 3
    assert len({(begin, end) for _, begin, end in found}) == 1
    assert found[0][2] - found[0][1] == 250_000_000


def test_a_child_that_raises_is_an_error_with_its_traceback() -> None:
    def fail(begin: int, end: int) -> None:
        raise RuntimeError("no luck")

    def hang(begin: int, end: int) -> None:
        signal.pause()

    with pytest.raises(ChildFailed, match="no luck") as caught:
        together([hang, fail], 0.01)
    assert caught.value.reason() == "RuntimeError: no luck"
    with Child(lambda line: None) as child, pytest.raises(ChildFailed, match="without a word"):
        child.hear()


def test_a_child_does_as_it_is_told_and_ends() -> None:
    def work(line: Any) -> None:
        while True:
            say(line, line.recv() * 2)

    with Child(work) as child:
        assert [child.ask(number) for number in (1, 2)] == [2, 4]
        child.finish()
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


WORTH_HAMMERING = [FastMutexPeer(), FetchAddPeer(), LimitPeer(), *(peer for peer in PEERS if peer.contended)]


@pytest.mark.parametrize("peer", WORTH_HAMMERING, ids=lambda peer: peer.name)
def test_hammering_counts_every_increment(peer: Peer, tmp_path: Path) -> None:
    reason = peer.missing()
    if reason is not None:
        pytest.skip(reason)
    with peer.open(str(tmp_path)) as counter:
        counter.increment(5)
        assert counter.value() == 5
        try:
            hammered = hammer(counter, 2, 2, 0.05)
        except ChildFailed as error:
            assert peer.package != "wdkmutex-shm", error
            pytest.skip(f"{peer.name}: {error.reason()}")  # a peer's own defect, which a run reports
        assert hammered.lost == 0
        assert len(hammered.counts) == 2
        assert counter.value() == 5 + 2 + sum(hammered.counts)
        assert hammered.rate > 0


# --- peers


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_counts_right(peer: Peer, tmp_path: Path) -> None:
    reason = peer.missing()
    if reason is not None:
        pytest.skip(reason)
    with peer.open(str(tmp_path)) as counter:
        counter.increment(3)
        counter.increment(2)
        assert counter.value() == 5


def _imports_asyncio(modules: tuple[str, ...]) -> bool:
    code = f"import sys, {', '.join(modules)}; sys.exit('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=DEADLINE, capture_output=True, check=False)
    return done.returncode != 0


@pytest.mark.parametrize("peer", [peer for peer in OTHERS if peer.modules], ids=lambda peer: peer.name)
def test_it_is_known_which_peers_import_asyncio(peer: Peer) -> None:
    reason = peer.missing()
    if reason is not None:
        pytest.skip(reason)
    assert peer.asyncio or not _imports_asyncio(peer.modules)


def test_the_benchmark_itself_imports_no_asyncio() -> None:
    code = "import sys, benchmark.app; sys.exit('asyncio' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLS), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], timeout=DEADLINE, env=environment, check=False)
    assert done.returncode == 0


class _Absent(Peer):
    name = "absent"
    package = "wdkmutex-no-such-package"
    modules = ("wdkmutex_no_such_module",)


def test_a_missing_peer_is_reported_and_the_rest_is_opened(tmp_path: Path) -> None:
    context = Context(QUICK, str(tmp_path), lambda what, fraction: None, False)
    with opened(context, [_Absent(), LockPeer()]) as (counters, skipped):
        assert list(counters) == [LockPeer.name]
    assert len(skipped) == 1
    assert "absent" in skipped[0]
    assert "wdkmutex-no-such-package" in skipped[0]
    assert _Absent().version() == "unknown"


def test_the_limit_locks_and_counts() -> None:
    limit = Limit()
    limit.increment(10)
    limit.lock_unlock(10)
    with limit:
        assert limit.value == 10
    destination = bytearray(4)
    copy(destination, b"abcd", 3)
    assert destination == b"abcd"
    with pytest.raises(ValueError, match="shorter"):
        copy(destination, b"abcde", 1)
    with pytest.raises(BufferError):
        copy(b"abcd", b"abcd", 1)


def test_the_limit_outlives_its_holder(tmp_path: Path) -> None:
    limit = Limit()

    def hold(line: Any) -> None:
        with limit:
            say(line, "held")
            line.recv()

    with Child(hold) as child:
        assert child.hear() == "held"
    limit.increment(1)
    assert limit.value == 1


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
    file, table = tmp_path / "results.json", tmp_path / "table.md"
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
    assert list(ROWS) == [f"B{number}" for number in range(1, 15)]


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
