"""The daemon: one process an instance that keeps its names and its pool.

Promises: it can be killed at any instruction, and the next one goes on from what is in shared memory.
May use: wdkmutex_shm. Must not know: the command line, the demo.
"""
