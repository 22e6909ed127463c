"""Exit codes, the same for every command.

0
    success
1
    failure without its own code; ``doctor`` found a failure; the totals of ``demo`` differ
2
    usage error: an unknown option, invalid JSON, an invalid name
3
    no Grt: no daemon serves the instance, or it was destroyed; for ``status``: the daemon does not run
4
    no mutex has that name
5
    the name is taken (``register --checked``)
6
    the lock was not acquired in time (``set --timeout``)
7
    wrong kind or wrong T, or T is too large
8
    refused: a folder, socket or segment of another user, permission mode or layout version
9
    shared memory could not be allocated
10
    the mutex cannot be used: it was destroyed, is held by the same thread, or is in use
11
    the engine of the instance cannot be used
12
    the lease was lost while the mutex was held: nothing was changed after that
13
    it is not known whether the change was made
128 + n
    ended by signal n (130: Ctrl-C)

``lock`` passes on the exit status of its command (128 + n if signal n ended it). For its own errors it uses the codes
of timeout(1) and env(1), to distinguish them from the command's: 124 if the lock was not acquired in time (another
code with ``-E``), 125 if it could not be locked for another reason, 126 if the command cannot be run, 127 if there is
no such command.
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
NO_ENGINE = 11
LEASE_LOST = 12
UNKNOWN = 13

LOCK_TIMEOUT = 124
LOCK_FAILED = 125
CANNOT_RUN = 126
NOT_FOUND = 127

#: What ``--help`` prints below the commands.
TABLE = (
    "Exit codes: 0 ok; 1 failed, unequal; 2 usage; 3 no Grt (daemon not running); 4 no such name; 5 name exists; "
    "6 timeout; 7 wrong kind or T; 8 refused (owner, permissions, layout, kernel); 9 no shared memory; 10 destroyed or "
    "in use; 11 no engine; 12 lease lost; 13 unknown whether changed; 128+n signal n. 'lock' passes on the command's "
    "status; its own: 124 timeout, 125 failed, 126 cannot run, 127 no such command."
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
    "ValueTooLarge": WRONG_TYPE,
    "EngineUnavailable": NO_ENGINE,
    "LeaseLost": LEASE_LOST,
    "CommitUnknown": UNKNOWN,
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
