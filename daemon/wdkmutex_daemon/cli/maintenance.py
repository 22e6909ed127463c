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
    """Remove what dead processes left.

    From shared memory, and on proof of death only. The daemon does it by itself every few seconds. Without one, the
    private memory of dead processes is removed all the same; what belongs to an instance is left to its daemon.
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
        f"Removed {len(facts['pools'])} segments of dead processes and {len(facts['data'])} of data that is no mutex's."
    )
    if facts["quarantined"]:
        text += f" {facts['quarantined']} destroyed mutexes wait for their last holder to release them."
    if not facts["daemon"]:
        text += f" No daemon serves instance {instance}, so its own segments were not looked at."
    note(text)


@click.command("doctor")
@options.instance
@options.as_json
def doctor_verb(instance: str, as_json: bool) -> int:
    """Look for trouble and name the remedy.

    /dev/shm, limits, permissions, stale sockets, leftovers, versions. Exit status 1 if something fails; warnings alone
    are 0. All instances of the user are looked at.
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
