"""Waiting for more than one lock: for a value, for changes, for any of several mutexes, in tasks of an event loop.

Promises: a waiter sleeps in the kernel, and is woken by what it waits for, by its deadline or by a signal.
May use: base, core, observe. Must not know: pools, names of mutexes, the daemon.
"""
