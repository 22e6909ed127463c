"""The main job: what is counted, each crash window of the bookkeeping, and whole runs with kills and interruptions."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
from pathlib import Path

import psutil
import pytest
from commands import Command
from hypothesis import given
from hypothesis import strategies as st
from support import DEADLINE, Fork, kill, segments, wait_until
from wdkmutex_daemon.cli import demo as demo_verb
from wdkmutex_daemon.demo import counting, job, workers
from wdkmutex_daemon.demo.counting import Counts, Piece, count_piece, count_plain, count_task, make_plan
from wdkmutex_daemon.demo.state import Job

from wdkmutex_shm.base.names import user_prefix
from wdkmutex_shm.memory import shm

TEXT = b"one two\nthree  four\tfive\r\n\n six\n"


@pytest.fixture
def tree(tmp_path: Path) -> str:
    """A folder of files of all sorts."""
    rng = random.Random(1)
    for number in range(120):
        folder = tmp_path / f"d{number % 7}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        body = b"".join(rng.choice((b"word ", b"a\n", b"\tlonger-word", b"  \n", b"\xff\xfe")) for _ in range(400))
        (folder / f"f{number}{('.txt', '.Py', '', '.gz')[number % 4]}").write_bytes(body)
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("d0")
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path)


# --- counting


@given(
    st.lists(st.sampled_from([b" ", b"\n", b"\t", b"\x0b", b"a", b"bc", b"\x00", b"\xa0", b"\x1c"])), st.integers(1, 7)
)
def test_the_counts_of_pieces_add_up(parts: list[bytes], length: int) -> None:
    data = b"".join(parts)
    fd = os.memfd_create("text")
    try:
        os.write(fd, data)
        path = b"/proc/self/fd/%d" % fd
        pieces = [Piece(path, "", offset, length) for offset in range(0, max(len(data), 1), length)]
        counts = [count_piece(piece) for piece in pieces]
    finally:
        os.close(fd)
    assert None not in counts
    assert sum(lines for lines, _ in counts) == data.count(b"\n")  # type: ignore[misc]
    assert sum(words for _, words in counts) == len(data.split())  # type: ignore[misc]


def test_a_plan_holds_each_byte_of_each_file_once(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PIECE_BYTES", 700)
    plan = make_plan(tree)
    sizes: dict[bytes, int] = {}
    for piece in (piece for task in plan.tasks for piece in task):
        assert piece.offset == sizes.get(piece.path, 0)
        sizes[piece.path] = piece.offset + piece.length
    found = {os.fsencode(path): path.stat().st_size for path in Path(tree).rglob("*") if path.is_file()}
    found = {path: size for path, size in found.items() if b"/link/" not in path}
    assert sizes == found
    assert (plan.files, plan.size) == (121, sum(found.values()))
    assert max(sum(piece.length for piece in task) for task in plan.tasks) <= 700
    assert {piece.suffix for task in plan.tasks for piece in task} == {".txt", ".py", ".gz", "(none)"}


def test_many_files_make_no_more_tasks_than_allowed(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = count_plain(make_plan(tree))
    monkeypatch.setattr(counting, "MANY_TASKS", 10)
    monkeypatch.setattr(counting, "MANY_SUFFIXES", 2)
    plan = make_plan(tree)
    assert len(plan.tasks) <= 10
    few = count_plain(plan)
    assert (few.files, few.lines, few.words) == (whole.files, whole.lines, whole.words)
    assert len(few.by_suffix) == 3
    assert "(other)" in few.by_suffix


def test_one_file_a_missing_file_and_folders_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(TEXT)
    plan = make_plan(str(file))
    assert count_plain(plan) == Counts(1, 4, 6, {".txt": 6})  # type: ignore[arg-type]
    file.unlink()
    assert count_plain(plan) == Counts()
    (tmp_path / "no" / "sub").mkdir(parents=True)
    (tmp_path / "no" / "sub" / "b").write_bytes(TEXT)
    assert make_plan(str(tmp_path)).files == 1
    assert make_plan(str(tmp_path), leave_out=["no"]).files == 0


# --- the bookkeeping, where a worker can die


@pytest.fixture
def counting_job(grt: str, tmp_path: Path) -> tuple[Job, list[list[Piece]]]:
    """A job of three tasks, a file each."""
    for name in "abc":
        (tmp_path / name).write_bytes(TEXT)
    plan = make_plan(str(tmp_path))
    return Job.create(plan), plan.tasks


def _finish(state: Job, tasks: list[list[Piece]]) -> Counts:
    """Do all that is left to do, as a worker that is not killed."""
    finished = None
    while (finished := state.claim(99, len(tasks), finished)) is not None:
        state.record(finished, count_task(tasks[finished]))
    assert state.done() == len(tasks)
    return state.result()


ALL = Counts(3, 12, 18, {"(none)": 18})  # type: ignore[arg-type]


def test_killed_before_the_record(counting_job: tuple[Job, list[list[Piece]]]) -> None:
    state, tasks = counting_job
    assert state.claim(1, 3, None) == 0
    assert state.claim(2, 3, None) == 1
    state.put_back(1)
    assert state.claims.peek() == {"next": 2, "held": {1: 2}, "back": [0]}
    state.put_back(2)
    assert _finish(state, tasks) == ALL


def test_killed_between_the_record_and_the_end_of_the_claim(counting_job: tuple[Job, list[list[Piece]]]) -> None:
    state, tasks = counting_job
    assert state.claim(1, 3, None) == 0
    state.record(0, count_task(tasks[0]))
    state.put_back(1)
    assert state.claims.peek() == {"next": 1, "held": {}, "back": []}
    assert _finish(state, tasks) == ALL


def test_recorded_twice_counts_once(counting_job: tuple[Job, list[list[Piece]]]) -> None:
    state, tasks = counting_job
    for _ in range(2):
        state.record(0, count_task(tasks[0]))
    assert (state.done(), state.result().words) == (1, 6)
    assert _finish(state, tasks) == ALL


def test_killed_while_it_holds_both_locks(counting_job: tuple[Job, list[list[Piece]]]) -> None:
    state, tasks = counting_job

    def die_holding() -> None:
        mine = Job.find()
        with mine.claims.lock() as claims, mine.totals.lock() as totals:
            claims.value["next"] = 3
            totals.value["words"] = 10**6
            os.kill(os.getpid(), signal.SIGKILL)

    with Fork(die_holding) as child:
        child.end()
    assert _finish(state, tasks) == ALL
    assert state.abandoned() == 2


# --- whole runs


def test_a_run_with_kills(tree: str, runtime_base: str) -> None:
    said = Command()("demo", tree, "--json", "--kill-every", "0.02", "--workers", "3", "--seed", "7")
    assert said.count("\n") == 1
    result = json.loads(said)
    assert result["equal"] is True
    assert result["files"] == result["expected_files"] == 121
    assert result["words"] == result["expected_words"] > 0
    assert result["lines"] == result["expected_lines"] > 0
    assert sum(result["by_suffix"].values()) == result["words"]
    assert (result["workers"], result["seed"]) == (3, 7)
    assert result["kills"] > 0
    assert result["abandoned"] >= 0
    assert result["seconds"] > 0
    assert os.listdir(os.path.join(runtime_base, "wdkmutex")) == []


@pytest.mark.slow
def test_a_run_without_kills_prints_a_table(tree: str) -> None:
    said = Command()("demo", tree, "--kill-every", "0", "--workers", "2")
    assert "2 workers at a time, 0 killed" in said
    assert "The totals are equal." in said
    assert "\x1b" not in said


@pytest.mark.slow
def test_an_empty_folder(tmp_path: Path) -> None:
    result = Command().json("demo", str(tmp_path))
    assert (result["files"], result["words"], result["equal"]) == (0, 0, True)


@pytest.mark.slow
def test_usage(tree: str) -> None:
    assert "does not exist" in Command().error("demo", f"{tree}/missing", code=2)
    assert Command().error("demo", tree, "--workers", "0", code=2)
    assert Command().error("demo", tree, "--kill-every", "-1", code=2)


@pytest.mark.slow
def test_unequal_totals_are_status_1(
    tree: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = count_plain

    def wrong(plan: counting.Plan) -> Counts:
        counts = plain(plan)
        counts.words += 1
        return counts

    monkeypatch.setattr(job, "count_plain", wrong)
    for args in ([], ["--json"]):
        status = demo_verb.demo_verb.main([tree, "--kill-every", "0", *args], standalone_mode=False)
        assert status == 1
    said = capsys.readouterr().out
    assert "NOT equal" in said
    assert json.loads(said.splitlines()[-1])["equal"] is False


@pytest.mark.slow
def test_workers_that_do_not_work_end_it(tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "work", os.getpid)  # called with arguments that it does not take
    with pytest.raises(workers.WorkersError, match="by themselves"):
        job.run(tree, workers=1, kill_every=0, seed=1)


@pytest.mark.slow
def test_it_ends_however_often_it_kills(tree: str) -> None:
    result = job.run(tree, workers=2, kill_every=0.001, seed=3)
    assert result.equal
    assert result.kills > 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing(number: signal.Signals, runtime_base: str) -> None:
    with Command().running("demo", "--kill-every", "0.1", start_new_session=True) as process:
        wait_until(lambda: len(_workers(process.pid)) > 2, "workers at work")
        instance = _instance_of(process.pid)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        out, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + number
    assert (out, said) == ("", "")
    assert segments(instance) == []
    assert os.listdir(os.path.join(runtime_base, "wdkmutex")) == []
    # The helper that multiprocessing has beside it ends when it notices that the demo has.
    wait_until(lambda: _session_of(process.pid) == [], "the end of all processes")


@pytest.mark.slow
def test_workers_end_when_the_demo_is_killed() -> None:
    with Command().running("demo", start_new_session=True) as process:
        wait_until(lambda: len(_workers(process.pid)) > 2, "workers at work")
        cli = Command(_instance_of(process.pid))
        kill(process.pid)
        wait_until(lambda: _session_of(process.pid) == [], "the end of the workers")
    cli("destroy", "--yes")


def _instance_of(pid: int) -> str:
    """The instance of a demo."""
    (segment,) = shm.listing(f"{user_prefix()}demo-{pid}-")[:1]
    return segment[len(user_prefix()) :].partition(".")[0]


def _workers(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def _session_of(leader: int) -> list[int]:
    """The processes that are still alive in a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
