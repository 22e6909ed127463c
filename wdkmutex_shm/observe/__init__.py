"""Who holds a lock, who waits for it, and which waits form a cycle. It looks and locks nothing.

Promises: looking changes nothing and waits for nobody.
May use: base, memory, core, pool. Must not know: handles, names of mutexes, the daemon.
"""
