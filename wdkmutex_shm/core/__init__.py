"""Slot, lock, commit, guard and codec: the compiled part, and the whole of the hot path.

Promises: mutual exclusion, and T as last committed, whenever a process is killed; every call has a defined result in
each state of the lock.
May use: base, memory. Must not know: pools, names, the daemon, how anybody waits for more than one lock.
"""
