"""Verbs for what others left behind: ``sweep`` and ``doctor``."""

from __future__ import annotations

from typing import Any

import click

from . import exit_codes, options, session
from .output import note, print_json

__all__ = ["doctor_verb", "sweep_verb"]


@click.command("sweep")
@options.instance
@options.as_json
def sweep_verb(instance: str, as_json: bool) -> None:
    """Remove shared memory left by dead processes.

    Only on proof of death. The daemon also does this every few seconds. Without a daemon, only private memory of dead
    processes is removed; the segments of an instance are left to its daemon.
    """
    from wdkmutex_shm.errors import DaemonUnavailable, GrtIsNull
    from wdkmutex_shm.pool.sweep import dead_private_pools

    facts: dict[str, Any]
    try:
        with session.connect(instance) as client:
            facts = {"daemon": True, **client.call("sweep")}
    except (GrtIsNull, DaemonUnavailable):
        facts = {"daemon": False, "pools": dead_private_pools(), "data": [], "quarantined": 0}
    if as_json:
        print_json(facts)
        return
    for name in [*facts["pools"], *facts["data"]]:
        click.echo(name)
    text = (
        f"Removed {len(facts['pools'])} segments of dead processes and "
        f"{len(facts['data'])} data segments that no mutex uses."
    )
    if facts["quarantined"]:
        text += f" {facts['quarantined']} destroyed mutexes wait for their last holder to release them."
    if not facts["daemon"]:
        text += f" No daemon serves instance {instance}, so its own segments were not checked."
    note(text)


@click.command("doctor")
@options.instance
@options.as_json
def doctor_verb(instance: str, as_json: bool) -> int:
    """Find problems and suggest remedies.

    Checks /dev/shm, limits, permissions, stale sockets, leftovers and versions, for all instances of the user. Exit
    status 1 if a check fails; warnings alone give 0.
    """
    from dataclasses import asdict

    from ..inspect.doctor import FAIL, OK, examine

    findings = examine()
    failed = any(finding.level == FAIL for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        colors = {OK: "green", FAIL: "red"}
        for finding in findings:
            level = click.style(f"{finding.level:<5}", fg=colors.get(finding.level, "yellow"))
            click.echo(f"{level} {finding.check}: {finding.text}")
            if finding.remedy:
                click.echo(f"      -> {finding.remedy}")
    return exit_codes.FAILED if failed else exit_codes.OK
