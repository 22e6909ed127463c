"""Exit codes, the same for every verb.

0
    it worked
1
    it failed for a reason without a code of its own; ``doctor`` found a failure; ``demo`` counted unequal totals
2
    usage: an unknown option, JSON that is none, a name that no mutex can have
3
    no Grt: no daemon serves the instance, or it was destroyed; for ``status``, the daemon does not run
4
    no mutex has that name
5
    the name is taken (``register --checked``)
6
    the lock was not had in time (``set --timeout``)
7
    wrong kind or wrong T
8
    refused: a folder, socket or segment of another user, permission mode or layout version
9
    shared memory could not be had
10
    the mutex cannot be used now: destroyed meanwhile, held by this very thread, or in use
128 + n
    ended by signal n (130: Ctrl-C)

``lock`` passes on the exit status of the command that it ran (128 + n if signal n ended it). Its own troubles use the
codes of timeout(1) and env(1), so that they do not look like the command's: 124 when the lock was not had in time
(another code with ``-E``), 125 when it could not be locked for another reason, 126 when the command cannot be run, 127
when there is no such command.
"""

from __future__ import annotations

__all__ = [
    "CANNOT_RUN",
    "FAILED",
    "LOCK_FAILED",
    "LOCK_TIMEOUT",
    "NOT_FOUND",
    "NO_GRT",
    "OK",
    "TABLE",
    "USAGE",
    "WRONG_TYPE",
    "code_of",
]

OK = 0
FAILED = 1
USAGE = 2
NO_GRT = 3
NO_SUCH_NAME = 4
NAME_EXISTS = 5
TIMEOUT = 6
WRONG_TYPE = 7
REFUSED = 8
NO_MEMORY = 9
UNUSABLE = 10

LOCK_TIMEOUT = 124
LOCK_FAILED = 125
CANNOT_RUN = 126
NOT_FOUND = 127

#: What ``--help`` prints below the commands.
TABLE = (
    "Exit codes: 0 ok; 1 failed, unequal; 2 usage; 3 no Grt (daemon not running); 4 no such name; 5 name exists; "
    "6 timeout; 7 wrong kind or T; 8 refused (owner, permissions, layout, kernel); 9 no shared memory; 10 destroyed or "
    "in use; 128+n signal n. 'lock' passes the command's status on; its own: 124 timeout, 125 failed, 126 cannot run, "
    "127 no such command."
)

# By name, so that `--help` and usage errors need not load the library. The first base class that is listed decides.
_CODES = {
    "LockTimeout": TIMEOUT,
    "InvalidName": USAGE,
    "KeyNotFound": NO_SUCH_NAME,
    "GrtIsEmpty": NO_SUCH_NAME,
    "KeyExists": NAME_EXISTS,
    "GrtIsNull": NO_GRT,
    "DaemonUnavailable": NO_GRT,
    "DowncastError": WRONG_TYPE,
    "RuntimeFolderRefused": REFUSED,
    "SegmentRefused": REFUSED,
    "LayoutMismatch": REFUSED,
    "KernelUnsupported": REFUSED,
    "MutexDamaged": REFUSED,
    "PagedPoolAllocFailed": NO_MEMORY,
    "MutexDestroyed": UNUSABLE,
    "MutexBusy": UNUSABLE,
    "AlreadyOwned": UNUSABLE,
    "DeadlockError": UNUSABLE,
    "NotOwned": UNUSABLE,
}


def code_of(error: BaseException) -> int:
    """Return the exit code for an error."""
    return next((_CODES[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _CODES), FAILED)
