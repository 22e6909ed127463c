"""Whether this kernel frees the locks of those who die: looked at once in each process, before its first segment.

The kernel learns of a thread's locks from a list that the C library registers when the thread begins (set_robust_list(2)).
Where that is refused nobody notices: locks work, until a holder is killed. So the kernel is asked for the list, which is
one system call; where it does not tell, a thread takes a lock and ends.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/futex.h>
    #include <stddef.h>
    #include <pthread.h>
    #include <signal.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static void *wdkm_robust_die(void *mutex) {
        pthread_mutex_lock(mutex);
        return NULL;
    }

    /* EOWNERDEAD if the next locker of a dead thread's mutex is told that; another errno if not; 0 if it cannot be tried. */
    static int wdkm_robust_try(void) {
        pthread_mutexattr_t attributes;
        pthread_mutex_t mutex;
        pthread_t thread;
        sigset_t all, before;
        int code;
        struct robust_list_head *list = NULL;
        size_t size;
        if (!syscall(SYS_get_robust_list, 0L, &list, &size)) return list ? EOWNERDEAD : EBUSY;
        if (pthread_mutexattr_init(&attributes)) return 0;
        code = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        if (!code) code = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        if (!code) code = pthread_mutex_init(&mutex, &attributes);
        pthread_mutexattr_destroy(&attributes);
        if (code) return code;
        sigfillset(&all); /* no handler is to run there */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        code = pthread_create(&thread, NULL, wdkm_robust_die, &mutex);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (code) return 0; /* no room for a thread */
        pthread_join(thread, NULL);
        code = pthread_mutex_trylock(&mutex);
        if (code == EOWNERDEAD) {
            pthread_mutex_consistent(&mutex);
            pthread_mutex_unlock(&mutex);
            pthread_mutex_destroy(&mutex);
        }
        return code;
    }
    """
    int wdkm_robust_try() nogil
    int EOWNERDEAD

cdef bint robust_locks_work = False  # children have the same kernel, and the same filters or more


def require_robust_locks():
    """Raise KernelUnsupported if the lock of a killed holder would stay held forever."""
    global robust_locks_work
    cdef int code
    if robust_locks_work:
        return
    with nogil:
        code = wdkm_robust_try()
    if code == EOWNERDEAD:
        robust_locks_work = True
    elif code != 0:
        raise KernelUnsupported(
            "this kernel does not release the locks of threads that die: it does not accept the robust list of a thread "
            "(set_robust_list(2)), so a lock whose holder is killed would stay held forever. Allow set_robust_list and "
            "get_robust_list in the seccomp filter of the container or service; under qemu-user or an old gVisor, use "
            "another kernel",
            system_call="set_robust_list", errno=code if code != EBUSY else 0,
        )
