"""The parts of the benchmark: what it computes, how it measures, its processes and its peers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import DEADLINE

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"

if not (TOOLS / "benchmark").is_dir():
    pytest.skip("not run from the source tree", allow_module_level=True)
sys.path.insert(0, str(TOOLS))

from benchmark.figures import median, percentile, quartiles, ratios, rounded  # noqa: E402
from benchmark.limit import Limit, copy  # noqa: E402
from benchmark.measure import Case, calibrate, interleave  # noqa: E402
from benchmark.model import QUICK, Context  # noqa: E402
from benchmark.peers import OTHERS, PEERS, FastMutexPeer, FetchAddPeer, LimitPeer, LockPeer, Peer  # noqa: E402
from benchmark.rows.common import opened  # noqa: E402
from benchmark.workers import Child, ChildFailed, hammer, say, together  # noqa: E402

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
    first, *rest = (n * cost for _, n in time.log)
    assert first == 4 * cost and sum(rest) <= max(3 * sample * 1e9, 2 * cost)  # finding it out takes not much longer


def test_a_slow_first_call_does_not_make_the_samples_short() -> None:
    time = FakeTime()
    steady = time.work("a", 1_000)
    first = [time.work("first", 5_000_000)]

    def run(n: int) -> None:
        if first:
            first.pop()(1)
        steady(n)

    assert calibrate(run, 0.002, time.clock) == 2_000


@pytest.mark.parametrize("interrupted", [1, 2, 3, 4])
def test_a_call_that_the_machine_interrupts_does_not_make_the_samples_short(interrupted: int) -> None:
    time = FakeTime()
    steady = time.work("a", 1_000)
    pause = time.work("pause", 5_000_000)
    calls = 0

    def run(n: int) -> None:
        nonlocal calls
        if calls == interrupted:
            pause(1)
        calls += 1
        steady(n)

    assert calibrate(run, 0.002, time.clock) == 2_000


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
    copy(destination, bytearray(b"abcd"), 3)
    assert destination == b"abcd"
    with pytest.raises(ValueError, match="shorter"):
        copy(destination, bytearray(5), 1)
    with pytest.raises(TypeError):
        copy(b"abcd", destination, 1)


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
