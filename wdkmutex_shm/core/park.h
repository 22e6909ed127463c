/* Sleeping until a lock can be had: on the lock word of glibc's robust mutex itself, as glibc's own waiters do.
 *
 * pthread_mutex_clocklock(3) sleeps on through signals, and says nothing of a tenant that is gone; so who uses it must wake
 * every now and then to look. Here a signal ends the sleep, and so does whoever ends the tenancy; what is left to look for is
 * rare, and a sleeper costs nothing. Taking the lock and releasing it stay glibc's, as does the robust list. What is used of it
 * is the part that it shares with the kernel, futex(2) and get_robust_list(2): the word is the holder's thread id with
 * FUTEX_WAITERS and FUTEX_OWNER_DIED, and who unlocks a word with FUTEX_WAITERS wakes one sleeper. wdkm_park_fits() asks for it.
 *
 * The rule that loses no wake: while somebody sleeps, the word has FUTEX_WAITERS, or somebody who was woken (or is just
 * unlocking, with the wake to come) has yet to look. Hence:
 *
 *   - who goes to sleep sets the bit, and sleeps only while the word is what it then was;
 *   - who was woken takes the lock or sets the bit in the word of the one who was faster, whatever it does after that;
 *   - who has slept and takes the lock sets the bit in its own word, for others may sleep, and trylock does not know;
 *   - who finds the tenancy at an end clears the bit and wakes everybody, so that whoever is about to sleep does not;
 *   - who takes a free lock past starving waiters that did not come for it sets the bit as well: their wake may be lost.
 *
 * A process that is killed after it was woken and before it did its part loses the wake. While the lock is free then, the kernel
 * wakes the next one, because the mutex is in the thread's list_op_pending. Where a newcomer has taken it meanwhile, and where
 * the killed one had the lock and not yet set its bit, nobody does: so nobody sleeps longer than wdkm_nap() without a look, and
 * any single one that looks mends it for all. tools/proof/park.pml is the model of this.
 */
#ifndef WDKM_PARK_H
#define WDKM_PARK_H

#include "slot.h"

#define WDKM_NAP INT64_C(1000000000)       /* the first one; then twice as long each time, */
#define WDKM_NAP_MOST INT64_C(4000000000)  /* up to this, */
#define WDKM_NAP_EACH INT64_C(1000000)     /* and for each that waits longer by this, so that thousands look as rarely as one, */
#define WDKM_NAP_OTHERS 4000u              /* up to so many: the dead may be counted, too */

_Static_assert(sizeof(((pthread_mutex_t *)0)->__data.__lock) == 4, "the lock word is a futex");
_Static_assert(offsetof(pthread_mutex_t, __data.__lock) % 4 == 0, "the lock word is a futex");

/* Where glibc links a mutex into the robust list, from which the kernel counts to the lock word. */
#if __PTHREAD_MUTEX_HAVE_PREV
#define WDKM_LINK(m) ((struct robust_list *)&(m)->__data.__list.__next)
#else
#define WDKM_LINK(m) ((struct robust_list *)&(m)->__data.__list)
#endif
#define WDKM_LINK_TO_WORD(m) ((long)((char *)&(m)->__data.__lock - (char *)WDKM_LINK(m)))

static __thread struct robust_list_head *wdkm_robust_list = NULL;

/* The calling thread's list, as glibc has told the kernel; NULL where the kernel does not say. */
static inline struct robust_list_head *wdkm_robust(void) {
    size_t size = 0;
    if (!wdkm_robust_list && syscall(SYS_get_robust_list, 0, &wdkm_robust_list, &size)) wdkm_robust_list = NULL;
    return wdkm_robust_list;
}

/* 0 if this libc's robust mutexes are not as all of this takes them to be. Takes and releases one. */
static inline int wdkm_park_fits(void) {
    static wdkm_slot s;
    struct robust_list_head *list = wdkm_robust();
    uint32_t tid = (uint32_t)syscall(SYS_gettid);
    int fits;
    if (wdkm_mutex_init(&s)) return 0;
    if (pthread_mutex_trylock(&s.mutex)) return 0;
    fits = wdkm_lock_word(&s) == tid;
    /* glibc links the newest first */
    fits = fits && (!list || (list->futex_offset == WDKM_LINK_TO_WORD(&s.mutex) && list->list.next == WDKM_LINK(&s.mutex) &&
                              list->list_op_pending == NULL));
    fits = !pthread_mutex_unlock(&s.mutex) && fits && wdkm_lock_word(&s) == 0;
    pthread_mutex_destroy(&s.mutex);
    return fits;
}

/* After the lock was taken by one who had slept. */
static inline void wdkm_others_may_sleep(wdkm_slot *s) { wdkm_set32(wdkm_lock_futex(s), FUTEX_WAITERS); }

static inline void wdkm_pending(struct robust_list_head *list, struct robust_list *link) {
    if (list) *(struct robust_list *volatile *)&list->list_op_pending = link;
}

/* Sleep on a word that is `value`, until a time of CLOCK_MONOTONIC. 0: woken; else EAGAIN, EINTR, ETIMEDOUT. */
static inline int wdkm_sleep_on(uint32_t *word, uint32_t value, int64_t until) {
    struct timespec t = wdkm_timespec(until);
    return syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &t, NULL, FUTEX_BITSET_MATCH_ANY) ? errno : 0;
}

/* How long to sleep now without a look, after a nap of that length, or 0. */
static inline int64_t wdkm_nap(const wdkm_slot *s, int64_t last) {
    uint32_t others = wdkm_starving(s);
    int64_t nap = last == 0 ? WDKM_NAP : 2 * last < WDKM_NAP_MOST ? 2 * last : WDKM_NAP_MOST;
    return nap + WDKM_NAP_EACH * (others < WDKM_NAP_OTHERS ? others : WDKM_NAP_OTHERS);
}

/* Whether a sleeper can be sure to be woken when the lock can be had, its word being `*value`. 0: the word has changed, or the
 * lock can be had now. */
static inline int wdkm_will_wake(wdkm_slot *s, uint32_t *value) {
    uint32_t *word = wdkm_lock_futex(s);
    uint32_t w = *value = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (!wdkm_word_held(w)) return 0;
    if (!(w & FUTEX_WAITERS)) {
        if (!wdkm_cas32(word, w, w | FUTEX_WAITERS)) return 0;
        *value = w | FUTEX_WAITERS;
    }
    return 1;
}

/* Sleep until the lock is had. Returns what trylock says of it (not EBUSY), or
 *
 *   EDEADLK    the calling thread has it
 *   EINTR      a signal came
 *   EBUSY      the tenancy is over
 *   ETIMEDOUT  the time is up
 *
 * and after each of these four no wake is owed to anybody. `slept` is kept from call to call of one wait. Who counts as
 * `starving` counts itself again when it was woken in vain and newcomers have set the count to zero. */
static int wdkm_park(wdkm_slot *s, uint64_t generation, uint32_t tid, int64_t until, int starving, int *slept) {
    struct robust_list_head *list = wdkm_robust();
    for (;;) {
        uint32_t word;
        int64_t now;
        int code;
        if (!wdkm_will_wake(s, &word)) {
            if (wdkm_word_held(word)) continue;
            code = pthread_mutex_trylock(&s->mutex); /* and it clears list_op_pending */
            if (code == EBUSY) continue;
            if (*slept && (code == 0 || code == EOWNERDEAD)) wdkm_others_may_sleep(s);
            if (*slept && code == ENOTRECOVERABLE) wdkm_futex_wake_all(wdkm_lock_futex(s));
            return code;
        }
        wdkm_pending(list, NULL);
        if ((word & FUTEX_TID_MASK) == tid) return EDEADLK;
        if (wdkm_load64(&s->generation) != generation) {
            wdkm_send_sleepers(s);
            return EBUSY;
        }
        now = wdkm_now();
        if (now >= until) return ETIMEDOUT;
        if (starving && wdkm_starving(s) == 0) wdkm_add32(&s->starving, 1);
        *slept = 1;
        wdkm_pending(list, WDKM_LINK(&s->mutex));
        code = wdkm_sleep_on(wdkm_lock_futex(s), word, until);
        if (code == EINTR) {
            wdkm_pending(list, NULL);
            return EINTR;
        }
    }
}

#endif
