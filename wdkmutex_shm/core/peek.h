/* Copies of what is in data segments, without the lock of the mutex and without Python; see `peek.pxi`. */
#ifndef WDKM_PEEK_H
#define WDKM_PEEK_H

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "slot.h"

/* Open the data segment `ident`, for reading only, as the descriptor may become one of the standard ones; else -1. */
static int wdkm_open_data(const char *prefix, uint64_t ident) {
    char path[256];
    if ((size_t)snprintf(path, sizeof path, "/dev/shm%s.d%016llx", prefix, (unsigned long long)ident) >= sizeof path) {
        errno = ENOENT;
        return -1;
    }
    return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

static int wdkm_has_bytes(const wdkm_data_header *header, uint64_t ident, uint32_t size, uint64_t room) {
    return header->magic == WDKM_DATA_MAGIC && header->layout == WDKM_LAYOUT && header->id == ident &&
           size <= header->capacity && header->capacity <= room;
}

/* Copy `size` bytes of T of the data segment `ident`: `skip` of them to `head`, the others to `body`. 1: done; 0: it is gone, too
 * short, or not the segment that its name says; else -errno. */
static int wdkm_copy_data(const char *prefix, uint64_t ident, uint32_t size, unsigned char *head, size_t skip,
                          unsigned char *body) {
    wdkm_data_header header;
    struct stat status;
    size_t done = 0;
    int result = 0, fd = wdkm_open_data(prefix, ident);
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    if (!fstat(fd, &status) && status.st_uid == geteuid() && S_ISREG(status.st_mode) &&
        pread(fd, &header, sizeof header, 0) == sizeof header &&
        wdkm_has_bytes(&header, ident, size, (uint64_t)status.st_size - WDKM_DATA_HEADER)) {
        while (done < size) {
            struct iovec to[2] = {{head + done, done < skip ? skip - done : 0}, {body, size - skip}};
            ssize_t got;
            if (done > skip) {
                to[1].iov_base = body + (done - skip);
                to[1].iov_len = size - done;
            }
            got = preadv(fd, to, 2, WDKM_DATA_HEADER + (off_t)done);
            if (got <= 0) break;
            done += (size_t)got;
        }
        result = done == size;
    }
    close(fd);
    return result;
}

/* The same from a mapping of `mapped` bytes: the kernel takes three times as long for its copy.
 *
 * While the shared flock(2) is held, nobody punches the segment (`wdkm_discard` in `base/descriptors.pxi`): a fault in a hole would
 * need memory, and raise SIGBUS where none is left. Whoever discards a segment removes its name and its magic first and then asks
 * for the lock. So a segment that has a name while we hold the lock stays whole until we release it, and one that has neither
 * after the release may have been left to us to punch. 0 also where the lock or a descriptor cannot be acquired:
 * wdkm_copy_data() finds out why. */
static int wdkm_copy_mapped(const char *prefix, uint64_t ident, unsigned char *base, size_t mapped, uint32_t size,
                            unsigned char *head, size_t skip, unsigned char *body, size_t page) {
    const unsigned char *data = base + WDKM_DATA_HEADER;
    struct stat status;
    int result = 0, fd = wdkm_open_data(prefix, ident);
    if (fd < 0) return 0;
    if (!flock(fd, LOCK_SH | LOCK_NB)) {
        if (!fstat(fd, &status) && status.st_nlink && (uint64_t)status.st_size >= mapped &&
            wdkm_has_bytes((const wdkm_data_header *)base, ident, size, mapped - WDKM_DATA_HEADER)) {
            memcpy(head, data, skip);
            memcpy(body, data + skip, size - skip);
            result = 1;
        }
        flock(fd, LOCK_UN);
        if (!fstat(fd, &status) && !status.st_nlink && ((const volatile wdkm_data_header *)base)->magic == 0 &&
            !flock(fd, LOCK_EX | LOCK_NB)) {
            munlock(base, mapped); /* MADV_REMOVE refuses locked memory */
            madvise(base + page, mapped - page, MADV_REMOVE);
        }
    }
    close(fd);
    return result;
}

/* Acquire the shared flock on a data segment until the descriptor that this returns is closed, here and in forked children. Never
 * released by LOCK_UN, which would release theirs. -1 where it cannot be acquired. */
static int wdkm_keep_data(const char *prefix, uint64_t ident) {
    int low, fd = wdkm_open_data(prefix, ident);
    if (fd >= 0 && fd <= STDERR_FILENO) {
        low = fd;
        fd = fcntl(low, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        close(low);
    }
    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int wdkm_is_ascii(const unsigned char *text, size_t length) {
    uint64_t all[4] = {0}, words[4]; /* four at a time, so that none waits for the one before */
    size_t at;
    for (at = 0; at + sizeof words <= length; at += sizeof words) {
        memcpy(words, text + at, sizeof words);
        all[0] |= words[0];
        all[1] |= words[1];
        all[2] |= words[2];
        all[3] |= words[3];
    }
    for (; at < length; ++at) all[0] |= text[at];
    return ((all[0] | all[1] | all[2] | all[3]) & UINT64_C(0x8080808080808080)) == 0;
}

static void wdkm_yield(void) { sched_yield(); }

#endif
