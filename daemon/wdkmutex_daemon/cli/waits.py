"""``waits``: who waits for whom, as trees, as a graph for dot(1), or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options
from .output import duration, note, print_json, print_trees, printable

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from ..inspect.waitgraph import Graph, Mutex, Thread, Wait

__all__ = ["waits_verb"]

_COMMAND_SHOWN = 60


@click.command("waits")
@options.as_json
@click.option("--dot", "as_dot", is_flag=True, help="Print a graph for dot(1).")
def waits_verb(as_json: bool, as_dot: bool) -> None:
    """Show the wait-for graph.

    It covers all processes of the user, all instances and anonymous mutexes, and waits of over a millisecond. Below
    each mutex are the threads that wait for it, and below each thread the mutexes that it holds. No lock is taken and
    no daemon is contacted.
    """
    from ..inspect.waitgraph import Graph

    graph = Graph()
    if as_json:
        print_json(graph.rows())
    elif as_dot:
        click.echo(_dot(graph))
    elif not graph.waits:
        note("No thread is waiting.")
    else:
        print_trees([_tree(graph, mutex) for mutex in graph.roots()])


def _short(command: str) -> str:
    command = printable(command)
    return command if len(command) <= _COMMAND_SHOWN else command[: _COMMAND_SHOWN - 3] + "..."


def _who(thread: Thread, command: str, name: str) -> str:
    return f"process {thread.pid} ({_short(command)}), thread {thread.tid} ({printable(name)})"


def _mutex_text(wait: Wait) -> str:
    from wdkmutex_shm.base.identity import command_of
    from wdkmutex_shm.observe.holder import thread_name

    where = f" of instance {wait.instance}" if wait.instance is not None else ""
    holder = wait.holder
    if holder is None:
        return f"{printable(wait.label)}{where}, {wait.hold.state if wait.hold is not None else 'destroyed'}"
    held = wait.hold.held_for if wait.hold is not None else None
    since = f" for at least {duration(held)}" if held is not None else ""
    who = _who(holder, command_of(holder.pid), thread_name(*holder))
    return f"{printable(wait.label)}{where}, held{since} by {who}"


def _wait_text(wait: Wait) -> str:
    how = {"any": ", for this or another", "value": ", for a value", "task": ", in a task"}.get(wait.waiter.how, "")
    who = _who(wait.thread, wait.waiter.command, wait.waiter.thread)
    return f"{who} has waited for {duration(wait.waiter.waited)}{how}"


def _text(text: str, deadlocked: bool) -> Text:
    from rich.text import Text

    return Text(f"{text}: DEADLOCK" if deadlocked else text, style="bold red" if deadlocked else "")


def _tree(graph: Graph, root: Mutex) -> Tree:
    from rich.tree import Tree

    tree = Tree(_text(_mutex_text(graph.waits[root][0]), root in graph.circles))
    drawn: set[Mutex] = set()
    open_ = [(tree, root)]
    while open_:
        branch, mutex = open_.pop()
        if mutex in drawn:
            branch.add("(as above)")
            continue
        drawn.add(mutex)
        for wait in graph.waits[mutex]:
            twig = branch.add(_text(_wait_text(wait), wait.thread in graph.circles and mutex in graph.circles))
            for held in graph.held_by(wait.thread):
                first = graph.waits[held][0]
                what = f"and holds {printable(first.label)}"
                open_.append((twig.add(_text(what, held in graph.circles and wait.thread in graph.circles)), held))
    return tree


def _quoted(text: str) -> str:
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _dot(graph: Graph) -> str:
    from wdkmutex_shm.base.identity import command_of

    lines = ["digraph waits {", "  rankdir=LR;", "  node [shape=box];"]
    mutexes = {mutex: f"m{number}" for number, mutex in enumerate(graph.waits)}
    threads: dict[Thread, str] = {}
    for mutex, waits in graph.waits.items():
        red = ", color=red" if mutex in graph.circles else ""
        lines.append(f"  {mutexes[mutex]} [shape=ellipse, label={_quoted(waits[0].label)}{red}];")
    edges = []
    for mutex, waits in graph.waits.items():
        circle = mutex in graph.circles
        holder = waits[0].holder
        for thread in [*([holder] if holder is not None else []), *(wait.thread for wait in waits)]:
            threads.setdefault(thread, f"t{len(threads)}")
        if holder is not None:
            style = " [label=held" + (", color=red];" if circle and holder in graph.circles else "];")
            edges.append(f"  {mutexes[mutex]} -> {threads[holder]}{style}")
        for wait in waits:
            red = ", color=red" if circle and wait.thread in graph.circles else ""
            label = _quoted(f"{wait.waiter.how}, {duration(wait.waiter.waited)}")
            edges.append(f"  {threads[wait.thread]} -> {mutexes[mutex]} [label={label}{red}];")
    for thread, node in threads.items():
        red = ", color=red" if thread in graph.circles else ""
        label = _quoted(f"{thread.pid}/{thread.tid} {_short(command_of(thread.pid))}")
        lines.append(f"  {node} [label={label}{red}];")
    return "\n".join([*lines, *edges, "}"])
