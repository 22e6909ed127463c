/* Copies of what is in data segments, without mapping them and without Python; see `_peek.pyx`. */
#ifndef WDKM_PEEK_H
#define WDKM_PEEK_H

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "slot.h"

/* Copy `size` bytes of T of the data segment `ident`: `skip` of them to `head`, the others to `body`. 1: done; 0: it is gone, too
 * short, or not the segment that its name says; else -errno. A descriptor that is one of the standard ones is for reading only. */
static int wdkm_copy_data(const char *prefix, uint64_t ident, uint32_t size, unsigned char *head, size_t skip,
                          unsigned char *body) {
    wdkm_data_header header;
    struct stat status;
    char path[256];
    size_t done = 0;
    int fd, result = 0;
    if ((size_t)snprintf(path, sizeof path, "/dev/shm%s.d%016llx", prefix, (unsigned long long)ident) >= sizeof path) return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    if (!fstat(fd, &status) && status.st_uid == geteuid() && S_ISREG(status.st_mode) &&
        pread(fd, &header, sizeof header, 0) == sizeof header && header.magic == WDKM_DATA_MAGIC &&
        header.layout == WDKM_LAYOUT && header.id == ident && size <= header.capacity &&
        header.capacity <= (uint64_t)status.st_size - WDKM_DATA_HEADER) {
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

static int wdkm_is_ascii(const unsigned char *text, size_t length) {
    uint64_t all = 0, word;
    size_t at;
    for (at = 0; at + 8 <= length; at += 8) {
        memcpy(&word, text + at, 8);
        all |= word;
    }
    for (; at < length; ++at) all |= text[at];
    return (all & UINT64_C(0x8080808080808080)) == 0;
}

static void wdkm_yield(void) { sched_yield(); }

#endif
