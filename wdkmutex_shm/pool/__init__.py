"""Who gets which slot: the pool of an instance, the private pool of a process, and what is swept up after the dead.

Promises: a slot has one tenant at a time, and a handle to an earlier tenancy is told so.
May use: base, memory, core. Must not know: names of mutexes, the daemon's protocol, handles.
"""
