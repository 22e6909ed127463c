"""Names on one machine, kept by a daemon: the client that asks it, and how it is started where there is none.

Promises: a request is done once or not at all, also where the daemon or this process is killed in the middle.
May use: base, protocol, memory, core, pool, objects. Must not know: :class:`~wdkmutex_shm.Grt`.
"""
