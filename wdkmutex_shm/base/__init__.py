"""Facts that need no shared memory: names, processes, descriptors, lock files, the runtime folder.

Promises: each question (is this process alive? whose descriptor is this?) has one answer, and it is here.
May use: :mod:`wdkmutex_shm.errors`, the operating system. Must not know: segments, slots, pools, the daemon.
"""
