"""Where the daemon of an instance is to be found, and whether it is ending."""

from __future__ import annotations

from collections.abc import Iterator

from ...base import runtime_dir
from ...base.names import instance_prefix, pool_segment
from ...core._core import Segment
from ...errors import RuntimeFolderRefused, WdkMutexError
from ...pool.pool import Pool

__all__ = ["is_destroyed", "sockets_of"]


def sockets_of(instance: str) -> Iterator[str]:
    """Socket paths where a daemon of ``instance`` may be: our session's, then the one that it wrote into its pool.

    A login session and a cron job of the same user have different runtime folders, and one daemon.

    Raises:
        RuntimeFolderRefused: after the last of them, if our session's folder is not safe.
    """
    refused: RuntimeFolderRefused | None = None
    ours = ""
    try:
        ours = runtime_dir.socket_path(instance, create=False)
        yield ours
    except RuntimeFolderRefused as error:
        refused = error
    found = Pool.server_of(instance_prefix(instance))
    if found is not None and found[1] and found[1] != ours:
        yield found[1]
    if refused is not None:
        raise refused


def is_destroyed(instance: str) -> bool:
    """Whether the instance has no pool, or one that is being destroyed: its daemon, if one answers, is about to end."""
    prefix = instance_prefix(instance)
    try:
        return Segment.attach(pool_segment(prefix, 0), prefix).destroyed
    except FileNotFoundError:
        return True
    except WdkMutexError:
        return False  # not ours to judge: what is wrong with it, the next call says
