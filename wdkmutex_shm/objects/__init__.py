"""How a handle is made, given to another process, and ended.

Promises: a handle names one tenancy of one slot for as long as it lives.
May use: base, core, pool, protocol, wait. Must not know: how names are kept.
"""
