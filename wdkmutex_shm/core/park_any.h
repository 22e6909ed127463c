/* Sleeping until any of several locks can be had: on all of their lock words at once, with futex_waitv(2). `park.h` has the rule
 * that loses no wake, and this keeps it for each of the words:
 *
 *   - who goes to sleep sets FUTEX_WAITERS in each, and sleeps only while each is what it then was;
 *   - one sleep may use up the wakes of several words, of which the kernel names one. So who ends its wait, whatever it has got,
 *     looks at all of them: it sets the bit in those that are held, its own too, and wakes the next one of those that are free.
 *
 * So a release wakes one waiter, and not all; and the kernel wakes one when a holder dies.
 *
 * list_op_pending has room for one mutex: a process that is killed after it was woken, and before it did its part, loses the wake.
 * So nobody sleeps longer than WDKM_NAP_ANY without a look. Those who sleep on that one word do, but it need not be for that long:
 * a newcomer that finds a free lock for which those who starve did not come sets the bit for them (`take_free` in `lock.pxi`).
 */
#ifndef WDKM_PARK_ANY_H
#define WDKM_PARK_ANY_H

#include "park.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

#define WDKM_SEVERAL 64
#define WDKM_NAP_ANY INT64_C(1000000000)
#define WDKM_APART INT64_C(2000000) /* between looks where the kernel cannot sleep on several words: before Linux 5.16, or refused */

typedef struct {
    uint64_t value, address;
    uint32_t flags, reserved;
} wdkm_waiter;

typedef struct {
    wdkm_slot *slots[WDKM_SEVERAL];
    uint64_t generations[WDKM_SEVERAL];
    unsigned count;
} wdkm_several;

/* Sleep on several words at once, until a time of CLOCK_MONOTONIC. At least 0: woken by that one; else -errno. */
static inline int wdkm_wait_any(wdkm_waiter *waiters, unsigned count, int64_t until) {
    struct timespec t = wdkm_timespec(until);
    long rc = syscall(SYS_futex_waitv, waiters, count, 0, &t, CLOCK_MONOTONIC);
    return rc < 0 ? -errno : (int)rc;
}

/* Whether the kernel cannot sleep on several words; what it has returned. */
static inline int wdkm_cannot(int code) { return code < 0 && code != -EAGAIN && code != -EINTR && code != -ETIMEDOUT; }

static inline void wdkm_wait_for(wdkm_waiter *waiter, uint32_t *word, uint32_t value) {
    waiter->address = (uint64_t)(uintptr_t)word;
    waiter->value = value;
    waiter->flags = 2; /* FUTEX2_SIZE_U32, shared */
    waiter->reserved = 0;
}

/* 1: whoever sleeps on the lock word while it is `*value` is woken when the lock can be had. 0: it can be had. -1: the tenancy is over. */
static inline int wdkm_must_wait(wdkm_slot *s, uint64_t generation, uint32_t *value) {
    while (!wdkm_will_wake(s, value))
        if (!wdkm_word_held(*value)) return 0;
    if (wdkm_load64(&s->generation) == generation) return 1;
    wdkm_send_sleepers(s);
    return -1;
}

/* For who counts as starving for each of them. Returns which one to try, looked for from `first` on; -1: a signal came, or the time
 * is up. To be called again or followed by wdkm_leave_any(), whatever happens. */
static int wdkm_park_any(const wdkm_several *of, unsigned first, int64_t until) {
    wdkm_waiter waiters[WDKM_SEVERAL];
    for (;;) {
        unsigned step, at;
        int64_t now;
        int code;
        for (step = 0; step < of->count; ++step) {
            wdkm_slot *s = of->slots[at = (first + step) % of->count];
            uint32_t value;
            if (wdkm_must_wait(s, of->generations[at], &value) <= 0) return (int)at;
            if (wdkm_starving(s) == 0) wdkm_add32(&s->starving, 1);
            wdkm_wait_for(&waiters[at], wdkm_lock_futex(s), value);
        }
        now = wdkm_now();
        if (now >= until) return -1;
        code = wdkm_wait_any(waiters, of->count, until);
        if (code >= 0) first = (unsigned)code;
        if (code >= 0 || code == -EAGAIN) continue;
        if (wdkm_cannot(code))
            wdkm_futex_wait(wdkm_lock_futex(of->slots[0]), (uint32_t)waiters[0].value,
                            until - now < WDKM_APART ? until - now : WDKM_APART);
        return -1;
    }
}

/* The end of a wait in which wdkm_park_any() was called. */
static void wdkm_leave_any(const wdkm_several *of) {
    unsigned at;
    uint32_t value;
    for (at = 0; at < of->count; ++at)
        if (wdkm_must_wait(of->slots[at], of->generations[at], &value) == 0)
            syscall(SYS_futex, wdkm_lock_futex(of->slots[at]), FUTEX_WAKE, 1, NULL, NULL, 0);
}

#endif
