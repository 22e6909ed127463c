"""The calling thread: who it is to other processes, and its IRQL.

Kept in C thread-local storage, so that asking costs no call into Python. A fork gives the child's only thread a new
serial: whatever remembers the old one knows that it was inherited, not acquired.
"""

cdef enum:
    PASSIVE = 0
    APC = 1
    DISPATCH = 2
    HIGH = 15

cdef object nobody

cdef extern from *:
    """
    #include <sys/stat.h>
    #include <sys/types.h>
    #include <sys/auxv.h>
    #include "dead.h"
    #include "faults.h"
    static __thread wdkm_thread wdkm_me __attribute__((tls_model("initial-exec")));
    static uint64_t wdkm_epoch = 1; /* raised by each fork, in the child */
    static uint64_t wdkm_forks = 0; /* raised by each fork, on both sides */
    static uint64_t wdkm_threads = 0;
    static uint64_t wdkm_home = 0; /* the pid namespace in which this module was loaded; see dead.h */

    static uint64_t wdkm_namespace(void) {
        struct stat status;
        return stat("/proc/self/ns/pid", &status) ? 0 : status.st_ino;
    }
    static wdkm_thread *wdkm_setup(void) {
        pid_t tid = (pid_t)syscall(SYS_gettid);
        int error = errno;
        char state;
        uint64_t began = 0;
        if (!wdkm_starts_compare() || wdkm_life("/proc/thread-self/stat", &state, &began)) began = 0;
        if (wdkm_home && wdkm_namespace() != wdkm_home) began = WDKM_ELSEWHERE;
        errno = error;
        wdkm_me.owner = (uint64_t)(uint32_t)getpid() << 32 | (uint32_t)tid;
        wdkm_me.word = wdkm_held_word(wdkm_me.owner, began, *(unsigned char *)getauxval(AT_RANDOM)); /* exec changes that */
        wdkm_me.serial = wdkm_epoch << 40 | (__atomic_add_fetch(&wdkm_threads, 1, __ATOMIC_RELAXED) & 0xffffffffffu);
        return &wdkm_me;
    }
    static inline wdkm_thread *wdkm_self(void) {
        return __builtin_expect(wdkm_me.serial != 0, 1) ? &wdkm_me : wdkm_setup();
    }
    static void wdkm_forked_parent(void) { ++wdkm_forks; }
    static void wdkm_forked_child(void) {
        ++wdkm_forks;
        if (wdkm_planted("no-fork-check")) return;
        ++wdkm_epoch;
        wdkm_me.serial = 0;
        wdkm_me.fast_held = 0; /* the parent's thread holds them, not this one */
    }
    static int wdkm_watch_forks(void) {
        wdkm_home = wdkm_namespace();
        return pthread_atfork(NULL, wdkm_forked_parent, wdkm_forked_child);
    }
    static inline uint64_t wdkm_current_epoch(void) { return wdkm_epoch; }
    static inline uint64_t wdkm_fork_count(void) { return wdkm_forks; }
    """
    wdkm_thread *wdkm_self() nogil
    int wdkm_watch_forks()
    uint64_t wdkm_current_epoch() nogil
    uint64_t wdkm_fork_count() nogil

if wdkm_watch_forks():
    raise MemoryError("pthread_atfork: no memory for a fork handler")

cdef dict modules = sys.modules
cdef Py_ssize_t modules_seen = -1
cdef bint loops_imported = False
cdef object asyncio_loop = None
cdef object asyncio_task = None  # called with the running loop
cdef object trio_running = None
cdef object trio_task = None
cdef object current_greenlet = None


def _nobody():
    return None


# In the place of a weak reference to a task: what a callback of an event loop locked, which no task runs.
nobody = _nobody


# The calling thread, set up.
cdef wdkm_thread *thread_state() noexcept nogil:
    return wdkm_self()


# How many fork() this process has made, plus how many made it.
cdef uint64_t fork_count() noexcept nogil:
    return wdkm_fork_count()


# Whether a thread serial was given out before the last fork: it then belongs to an ancestor.
cdef bint before_fork(uint64_t serial) noexcept nogil:
    return (serial & ~WDKM_OF_TASK) >> 40 != wdkm_current_epoch()


cdef int find_event_loops() except -1:
    """Learn which libraries of event loops and greenlets are imported. Called when the number of imported modules has changed."""
    global modules_seen, loops_imported, asyncio_loop, asyncio_task, trio_running, trio_task, current_greenlet
    cdef Py_ssize_t seen = PyDict_GET_SIZE(modules)
    cdef object module = modules.get("_asyncio") or modules.get("asyncio.events")
    asyncio_loop = getattr(module, "_get_running_loop", None)
    asyncio_task = None
    module = modules.get("asyncio.tasks")
    if module is not None:
        # Up to Python 3.11 the function is a slow one, and what it looks up is in a dict.
        running = getattr(module, "_current_tasks", None)
        asyncio_task = running.get if type(running) is dict and sys.version_info < (3, 12) else module.current_task
    module = modules.get("trio.lowlevel")
    trio_running = None
    trio_task = getattr(module, "current_task", None)
    if module is not None:
        trio_running = getattr(module, "in_trio_run", None) or getattr(module, "current_trio_token", None)
    current_greenlet = getattr(modules.get("greenlet._greenlet"), "getcurrent", None)
    loops_imported = asyncio_loop is not None or trio_running is not None or current_greenlet is not None
    modules_seen = seen
    return 0


cdef bint in_event_loop() except -1:
    if PyDict_GET_SIZE(modules) != modules_seen:
        find_event_loops()
    if asyncio_loop is not None and asyncio_loop() is not None:
        return True
    if trio_running is not None:
        try:
            return trio_running() is not False
        except RuntimeError:  # current_trio_token() of a Trio without in_trio_run()
            return False
    return False


# The task of asyncio or Trio that the calling thread runs now, or None.
cdef object running_task():
    if PyDict_GET_SIZE(modules) != modules_seen:
        find_event_loops()
    if asyncio_loop is not None and asyncio_task is not None:
        loop = asyncio_loop()
        if loop is not None:
            task = asyncio_task(loop)
            if task is not None:  # else perhaps a Trio is the guest of this loop
                return task
    if trio_task is not None:
        try:
            return trio_task()
        except RuntimeError:
            pass
    return None


# The same, or the greenlet that it runs, if that is not its main one.
cdef object running_owner():
    task = running_task()
    if task is None and current_greenlet is not None:
        greenlet = current_greenlet()
        if greenlet.parent is not None:  # else it is the thread's main one, and the thread itself
            task = greenlet
    return task


# For a thread that thread_at_level() found to be `apart`: a weak reference to the task or greenlet that owns what it locks
# now; `nobody` in a callback of an event loop; None if it is the thread itself after all.
cdef object owner_now():
    owner = running_owner()
    if owner is not None:
        return PyWeakref_NewRef(owner, None)
    return nobody if in_event_loop() else None


cdef int look_around(wdkm_thread *me) except -1:
    """Find out whether an event loop or a greenlet runs in this thread."""
    me.apart = False
    if in_event_loop():
        me.apart = True
        if me.level < DISPATCH:
            me.level = DISPATCH
    elif current_greenlet is not None and current_greenlet().parent is not None:
        me.apart = True
    return 0


# The same, with its `level` brought up to date: the raised level, APC while it holds a FastMutex, DISPATCH in an event loop.
cdef wdkm_thread *thread_at_level() except NULL:
    cdef wdkm_thread *me = wdkm_self()
    me.level = me.irql
    if me.level < APC and me.fast_held > 0:
        me.level = APC
    # Most processes never import one, and then this costs a comparison.
    if loops_imported or PyDict_GET_SIZE(modules) != modules_seen:
        look_around(me)
    return me


# `kind` of the mutex, 0 where it is none that users see; see :mod:`wdkmutex_shm.core.irql_advice`.
cdef int refuse_level(str operation, object name, int level, int limit, int kind) except -1:
    cdef bint in_loop = level == DISPATCH and wdkm_self().irql < DISPATCH
    where = "this thread runs an event loop" if in_loop else f"this thread is at IRQL {level}"
    raise IrqlTooHigh(
        f"{operation} of {name or 'an anonymous mutex'}: {where}, and the operation is allowed up to IRQL {limit}; "
        + irql_advice.out_of(operation, kind, level, limit, in_loop),
        name=name, operation=operation, level=level, limit=limit,
    )


def must_allow(str operation, object name, int limit, int kind=0):
    """Raise IrqlTooHigh if the calling thread's IRQL is above ``limit``; for what is written in Python."""
    cdef wdkm_thread *me = thread_at_level()
    if me.level > limit:
        refuse_level(operation, name, me.level, limit, kind)


def current_level():
    """Return the effective IRQL of the calling thread as an int."""
    return thread_at_level().level


def raised_level():
    """Return the level that raise_irql set for the calling thread, without what locks and event loops add."""
    return wdkm_self().irql


def set_raised_level(int level):
    """Set the level that :func:`raised_level` returns; for :mod:`wdkmutex_shm.core.irql` only."""
    wdkm_self().irql = level


def thread_serial():
    """Return a number that no other thread of this process, living or dead, and no forked child's thread has."""
    return wdkm_self().serial


def times_forked():
    """Return how many forks lie between the process that loaded this module and the calling one; also those that C made."""
    return wdkm_current_epoch()


def forks():
    """Return how many times this process forked or was forked since this module was loaded."""
    return fork_count()
