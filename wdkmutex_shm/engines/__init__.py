"""Where names live. An engine keeps the names of an instance and finds the mutexes behind them.

Promises: a name means one mutex at a time, for every process of the instance.
May use: everything below. Must not know: :class:`~wdkmutex_shm.Grt`, which its users see.
"""
