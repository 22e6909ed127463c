"""What the kernel says of a process: whether it has ended, and when it began; see `alive.h`.

For :mod:`wdkmutex_shm.base.identity`, which everybody else asks.
"""

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/prctl.h>
    #include <unistd.h>
    static int wdkm_die_with(pid_t parent, int number) {
        if (prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)) return -1;
        if (getppid() != parent) raise(number); /* it has died already, and nobody will say so again */
        return 0;
    }
    """
    int wdkm_die_with(int, int)

cdef extern from "alive.h":
    enum:
        WDKM_ALIVE
        WDKM_GONE
        WDKM_CANNOT_ASK
    uint64_t WDKM_START_OF_ITS_OWN
    int wdkm_process_gone(uint32_t)
    int wdkm_thread_gone(uint32_t, uint32_t)
    uint64_t wdkm_start_of(uint32_t)

ALIVE = WDKM_ALIVE
GONE = WDKM_GONE
CANNOT_ASK = WDKM_CANNOT_ASK
START_OF_ITS_OWN = WDKM_START_OF_ITS_OWN


def process_state(pid):
    """Return ALIVE; GONE if there is no such process, or it has ended and waits to be reaped; or CANNOT_ASK: it is one of
    the two, and the kernel has no pidfd_open(2), or no descriptor is free."""
    return wdkm_process_gone(pid) if 0 < pid <= 0x7fffffff else GONE


def thread_gone(pid, tid):
    """Whether the process has no such thread. Of a main thread that has ended: False."""
    return not (0 < pid <= 0x7fffffff and 0 < tid <= 0x7fffffff) or wdkm_thread_gone(pid, tid) != 0


def start_of(pid):
    """Return when a process began, in clock ticks since boot; 0 if it is not to be seen.

    It is the same number in all time namespaces, or else it has START_OF_ITS_OWN.

    Raises:
        OSError: for want of a descriptor, say.
    """
    cdef uint64_t start
    if not 0 < pid <= 0x7fffffff:
        return 0
    start = wdkm_start_of(pid)
    if start == 0 and errno not in (ENOENT, ESRCH, EACCES, EPERM):
        raise OSError(errno, os.strerror(errno), f"/proc/{pid}/stat")
    return start


def die_with(int parent, int number):
    """Have the kernel send the calling process a signal when its parent (the thread that forked it) ends, or has ended.

    It goes on over execve(2), except into a program that is set-user-ID or has capabilities; children do not inherit it.

    Raises:
        OSError: the kernel refuses.
    """
    if wdkm_die_with(parent, number) != 0:
        raise OSError(errno, os.strerror(errno))
