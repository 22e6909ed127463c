"""Verbs about the daemon itself: ``run``, ``start``, ``stop``, ``restart``, ``status``."""

from __future__ import annotations

from typing import Any

import click

from . import exit_codes, options, session
from .output import Failure, duration, note, print_json

__all__ = ["restart_verb", "run_verb", "start_verb", "status_verb", "stop_verb"]

_seconds = click.option(
    "--timeout", metavar="S", type=options.Seconds(), default=10.0, show_default=True, help="Seconds to wait."
)


@click.command("run")
@options.instance
@click.option("--detach", is_flag=True, hidden=True, help="Go on in the background.")
@click.option("--ready-fd", type=int, hidden=True, help="Descriptor that is told when the daemon serves.")
def run_verb(instance: str, detach: bool, ready_fd: int | None) -> int:
    """Serve the instance in the foreground.

    Runs until Ctrl-C, SIGTERM, `stop` or `destroy`. Mutexes left by an earlier daemon are available again. This is the
    command for a service manager.
    """
    from ..serve.lifecycle import serve

    return serve(instance, detach=detach, ready_fd=ready_fd)


@click.command("start")
@options.instance
@_seconds
def start_verb(instance: str, timeout: float) -> None:
    """Start the daemon, if none serves the instance."""
    _start(instance, timeout)


def _start(instance: str, timeout: float) -> None:
    from wdkmutex_shm.engines.local.autostart import start

    started = start(instance, timeout)
    with session.connect(instance) as client:
        what = "Started" if started else "Already running"
        note(f"{what}: the daemon of instance {instance}, pid {client.daemon['pid']}.")


@click.command("stop")
@options.instance
@_seconds
def stop_verb(instance: str, timeout: float) -> None:
    """Stop the daemon; its mutexes stay.

    Processes that have a handle keep locking; the names are available again after `start`.
    """
    if not _stop(instance, timeout):
        note(f"Not running: no daemon serves instance {instance}.")


def _stop(instance: str, timeout: float) -> bool:
    """End the daemon and wait for its end. Tells whether there was one."""
    from wdkmutex_shm.base.identity import start_time
    from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull

    try:
        client = session.connect(instance, max(timeout, 0.1))
    except GrtIsNull:
        return False
    except DaemonUnavailable:
        pid = _silent_daemon(instance)
        if pid is None:
            return False
        raise Failure(
            f"the daemon of instance {instance} (pid {pid}) is alive but does not answer; end it with: kill -9 {pid} "
            "(this loses no mutex)",
            exit_codes.FAILED,
        ) from None
    with client:
        pid = client.daemon["pid"]
        started = start_time(pid)
        reply = client.submit("stop", {})
        if reply.error is not None and not reply.doubtful:
            raise reply.error
    if not session.wait_for_end(pid, started, timeout):
        raise Failure(
            f"the daemon of instance {instance} (pid {pid}) did not end within {timeout:g} s; end it with: "
            f"kill -9 {pid} (this loses no mutex)",
            exit_codes.FAILED,
        )
    note(f"Stopped: the daemon of instance {instance}, pid {pid}. Its mutexes stay; `destroy` frees them.")
    return True


def _silent_daemon(instance: str) -> int | None:
    """Pid of a daemon that lives although it does not answer."""
    from wdkmutex_shm.base.names import instance_prefix
    from wdkmutex_shm.pool.pool import Pool

    return Pool.writer_of(instance_prefix(instance))


@click.command("restart")
@options.instance
@_seconds
def restart_verb(instance: str, timeout: float) -> None:
    """Stop the daemon and start it again.

    Values, names and held locks are preserved.
    """
    _stop(instance, timeout)
    _start(instance, timeout)


@click.command("status")
@options.instance
@options.as_json
def status_verb(instance: str, as_json: bool) -> int:
    """Show whether a daemon runs, and its mutexes and memory.

    Exit status 3 if none serves the instance.
    """
    from wdkmutex_shm.engines.local.client import has_segments
    from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull

    try:
        with session.connect(instance) as client:
            facts: dict[str, Any] = {"running": True, **client.call("status")}
    except (GrtIsNull, DaemonUnavailable) as error:
        left = has_segments(instance)
        silent = _silent_daemon(instance)
        if as_json:
            print_json(
                {
                    "instance": instance,
                    "running": False,
                    "segments_left": left,
                    "silent_pid": silent,
                    "reason": str(error),
                }
            )
        elif silent is not None:
            click.echo(
                f"Instance {instance}: its daemon, pid {silent}, is alive but does not answer. End it: "
                f"kill -9 {silent} (this loses no mutex)"
            )
        else:
            more = " Its mutexes are still in shared memory." if left else ""
            click.echo(f"Instance {instance}: not running.{more} Start it: wdkmutex-daemon start --instance {instance}")
        return exit_codes.NO_GRT
    if as_json:
        print_json(facts)
        return exit_codes.OK
    click.echo(
        f"Instance {instance}: running for {duration(facts['uptime'])}, pid {facts['pid']}, "
        f"version {facts['version']}, {facts['clients']} clients\n"
        f"Mutexes:  {facts['names']} (slots: {facts['used']} of {facts['slots']} used, "
        f"{facts['quarantined']} in quarantine)\n"
        f"Memory:   {facts['segments']} segments, {facts['pool_bytes']} bytes of slots, "
        f"{facts['data_bytes']} bytes of data\n"
        f"Socket:   {facts['socket']}"
    )
    return exit_codes.OK
