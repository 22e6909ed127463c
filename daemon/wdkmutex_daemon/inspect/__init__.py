"""What is wrong with an instance, and who waits for whom, found out without its daemon.

Promises: it looks and changes nothing.
May use: wdkmutex_shm. Must not know: the daemon's inside, the command line.
"""
