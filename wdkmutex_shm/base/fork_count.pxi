"""How often this process was forked, also by C without a word to Python; for :mod:`wdkmutex_shm.base.forks`."""

cdef extern from *:
    """
    #include <pthread.h>
    static uint64_t wdkm_times_forked = 1;
    static void wdkm_count_fork(void) { ++wdkm_times_forked; }
    static int wdkm_count_forks(void) { return pthread_atfork(NULL, NULL, wdkm_count_fork); }
    """
    uint64_t wdkm_times_forked
    int wdkm_count_forks()

if wdkm_count_forks():
    raise MemoryError("pthread_atfork: no memory for a fork handler")


def times_forked():
    """Return how many forks lie between the process that loaded this module and the calling one."""
    return wdkm_times_forked
