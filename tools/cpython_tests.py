"""CPython's own tests of multiprocessing, run against the crash-proof context.

    tools/cpython-tests [METHOD...] [-- ARGUMENTS OF unittest]

The tests are all those of processes that the interpreter has installed (test._test_multiprocessing), but for the few
that cannot apply (NOT_APPLICABLE); where it came without its ``test`` package, this says so and ends. Each start method
(fork, spawn, forkserver; by default all) runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import unittest
from multiprocessing import context
from typing import Any

from wdkmutex_shm import mp

METHODS = ("fork", "spawn", "forkserver")
TYPES = (
    *("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier"),
    *("Queue", "JoinableQueue", "SimpleQueue", "Pool", "Value", "Array"),
)
NOT_APPLICABLE = {
    "test_mixed_startmethod": "wants an error when a lock of a fork context is handed to a spawned child; ours works",
    "test_resource_tracker_sigkill": "wants a semaphore to start multiprocessing's resource tracker; ours needs none",
}
HOW_METHOD = "WDKM_CPYTHON_TESTS_METHOD"


def replace_contexts() -> None:
    """Make ``multiprocessing`` itself use the crash-proof contexts, in this process and (by import) in its children."""
    concrete: dict[str, Any] = context._concrete_contexts  # type: ignore[attr-defined]
    default: Any = context._default_context  # type: ignore[attr-defined]
    current = default._default_context._name
    concrete.update((method, mp.get_context(method)) for method in METHODS)
    default._default_context = concrete[current]
    for name in TYPES:
        setattr(multiprocessing, name, _maker(default, name))


def _maker(default: Any, name: str) -> Any:
    def make(*args: Any, **kwargs: Any) -> Any:
        return getattr(default.get_context(), name)(*args, **kwargs)

    return make


def install(into: dict[str, Any], method: str) -> None:
    """Put CPython's test cases into a module's namespace."""
    from test import _test_multiprocessing as theirs

    found: dict[str, Any] = {"__name__": into["__name__"]}
    install_tests: Any = theirs.install_tests_in_module_dict
    install_tests(found, method)
    into.update((name, found[name]) for name in ("setUpModule", "tearDownModule"))
    for name in sorted(found):
        if not _is_ours(name, found):
            continue
        for test, reason in NOT_APPLICABLE.items():
            if hasattr(found[name], test):
                setattr(found[name], test, unittest.skip(reason)(getattr(found[name], test)))
        into[name] = found[name]


def _is_ours(name: str, found: dict[str, Any]) -> bool:
    """Whether it is a test case of processes: not of what threads, or a manager, have in the place of their types."""
    if not isinstance(found[name], type) or not issubclass(found[name], unittest.TestCase):
        return False
    if name.startswith("WithManager"):
        return name.replace("WithManager", "WithProcesses") not in found
    return not name.startswith("WithThreads")


def is_installed() -> bool:
    """Whether the interpreter came with its tests."""
    try:
        return importlib.util.find_spec("test._test_multiprocessing") is not None
    except ModuleNotFoundError:
        return False


def main(arguments: list[str]) -> int:
    """Run the tests for each start method in a process of its own. Returns the exit code."""
    if not is_installed():
        print(f"cpython-tests: skipped: {sys.executable} came without its test package (test._test_multiprocessing)")
        return 0
    end = arguments.index("--") if "--" in arguments else len(arguments)
    methods, rest = arguments[:end] or list(METHODS), arguments[end + 1 :]
    failed = []
    for method in methods:
        if method not in METHODS:
            print(f"cpython-tests: {method!r} is no start method; there are {', '.join(METHODS)}", file=sys.stderr)
            return 2
        print(f"cpython-tests: Python {sys.version.split()[0]}, {method}", flush=True)
        environment = {**os.environ, HOW_METHOD: method}
        if subprocess.run([sys.executable, __file__, *rest], env=environment, check=False).returncode:
            failed.append(method)
    print(f"cpython-tests: {'failed: ' + ', '.join(failed) if failed else 'all passed'}")
    return int(bool(failed))


if HOW_METHOD in os.environ:
    # Also in children that import this module again.
    replace_contexts()
    install(globals(), os.environ[HOW_METHOD])

if __name__ == "__main__":
    if HOW_METHOD in os.environ:
        unittest.main()
    else:
        sys.exit(main(sys.argv[1:]))
