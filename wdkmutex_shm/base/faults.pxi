"""Faults on purpose, see `faults.h`; for the tests of the tools that look for faults."""

cdef extern from "faults.h":
    bint WDKM_PLANTS
    bint wdkm_planted(const char *)

#: Whether this build carries faults that can be switched on.
PLANTS = bool(WDKM_PLANTS)


def planted(str fault not None):
    """Whether the fault of that name is switched on in this process; never in a normal build."""
    cdef bytes raw
    if not WDKM_PLANTS:
        return False
    raw = fault.encode()
    return bool(wdkm_planted(raw))
