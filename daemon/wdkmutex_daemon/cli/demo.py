"""``demo``: the main job."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from . import exit_codes, options
from .output import Failure, print_json

__all__ = ["demo_verb"]


@click.command("demo")
@click.argument("path", required=False, type=click.Path(exists=True))
@click.option("--workers", type=options.Whole(1, 256), default=4, show_default=True, help="Number of worker processes.")
@click.option(
    "--kill-every",
    metavar="S",
    type=options.Seconds(),
    default=0.2,
    show_default=True,
    help="SIGKILL a random worker every S seconds; 0: none.",
)
@click.option("--seed", type=int, help="Seed for choosing the workers to kill. Random by default, and printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def demo_verb(path: str | None, workers: int, kill_every: float, seed: int | None, as_json: bool) -> int:
    """Count words while the workers are killed.

    Worker processes count the lines and words of the files below PATH (default: Python's standard library). Claims and
    totals are kept in mutexes of a separate instance, which is destroyed at the end. At regular intervals a random
    worker is killed with SIGKILL, wherever it is, and another takes its place. The totals are always equal; exit
    status 1 if not.
    """
    import random

    from wdkmutex_shm.base.frozen import is_frozen

    if is_frozen():
        raise Failure(
            "the demo spawns Python interpreters, and a frozen program has none; run it from an installed package",
            exit_codes.FAILED,
        )
    from ..demo.job import Ended, run
    from ..demo.report import as_json as result_as_json
    from ..demo.report import as_tables
    from ..demo.workers import WorkersError

    try:
        with _progress(as_json) as progress:
            result = run(
                path,
                workers=workers,
                kill_every=kill_every,
                seed=random.randrange(1 << 32) if seed is None else seed,  # noqa: S311 - nothing secret about it
                progress=progress,
            )
    except WorkersError as error:
        raise Failure(str(error), exit_codes.FAILED) from None
    except Ended as end:
        return 128 + end.signum
    if as_json:
        print_json(result_as_json(result))
    else:
        click.echo(as_tables(result), nl=False)
    return exit_codes.OK if result.equal else exit_codes.FAILED


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if as_json or not sys.stderr.isatty():
        yield lambda done, tasks: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("counting"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn())
    # Without its refreshing thread: a signal goes to any thread, and the parent blocks some while it starts workers.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        row = bar.add_task("counting", total=None)
        yield lambda done, tasks: bar.update(row, completed=done, total=tasks, refresh=True)
