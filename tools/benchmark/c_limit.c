/* The limit for the benchmark: what a lock of this design costs in C, with no Python in the loop.
 *
 * The same robust, process-shared, error-checking mutex as in a slot, and an int beside it. limit.py compiles it, and says
 * what the functions are for; those that may fail return an errno.
 */
#include <sys/mman.h>

#include "slot.h"

static inline int take(wdkm_slot *slot) {
    int code = pthread_mutex_lock(&slot->mutex);
    return code == EOWNERDEAD ? pthread_mutex_consistent(&slot->mutex) : code;
}

wdkm_slot *limit_make(void) {
    void *memory = mmap(NULL, sizeof(wdkm_slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    errno = wdkm_mutex_init(memory);
    return errno ? NULL : memory;
}

void limit_free(wdkm_slot *slot) { munmap(slot, sizeof(wdkm_slot)); }

int limit_increment(wdkm_slot *slot, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int code = take(slot);
        if (code) return code;
        slot->commit += 1;
        pthread_mutex_unlock(&slot->mutex);
    }
    return 0;
}

int limit_lock_unlock(wdkm_slot *slot, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int code = take(slot);
        if (code) return code;
        pthread_mutex_unlock(&slot->mutex);
    }
    return 0;
}

int limit_lock(wdkm_slot *slot) { return take(slot); }

int limit_unlock(wdkm_slot *slot) { return pthread_mutex_unlock(&slot->mutex); }

uint64_t limit_value(const wdkm_slot *slot) { return slot->commit; }

void limit_copy(void *target, const void *source, size_t size, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        memcpy(target, source, size);
        wdkm_fence_release(); /* else the compiler might copy once */
    }
}
