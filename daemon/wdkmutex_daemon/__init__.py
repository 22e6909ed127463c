"""The daemon of the Grt and its command line, ``wdkmutex-daemon``.

One process for each instance and user keeps the names of the mutexes and writes the slots of the instance's pool. It is
never on the path of a lock, and it can be killed at any moment: all that it knows is in the segments.
"""
