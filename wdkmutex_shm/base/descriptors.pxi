"""Descriptors of ours: never one of the standard three, and never taken for ours when it is another file's by now.

A process that becomes a daemon may close all its descriptors, ours included, without a word to us. Their numbers are
given to whatever is opened next. So who keeps a descriptor keeps with it which file it is of.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/falloc.h>
    #include <sys/file.h>
    #include <sys/stat.h>
    #include <unistd.h>
    /* 0, or an errno. What is another user's, or is gone, is left alone. */
    static int wdkm_discard(const char *path, long long punch, long long page) {
        struct stat status;
        int code = 0, fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0) {
            code = errno;
            if (code == ENOENT || code == EACCES || code == EISDIR || code == ENXIO || code == ELOOP) return 0;
            if (code != EMFILE && code != ENFILE && code != ENOMEM) return code;
            return unlink(path) && errno != ENOENT ? errno : 0; /* no descriptor is free, and this needs none */
        }
        if (fstat(fd, &status)) {
            code = errno;
        } else if (status.st_uid == geteuid()) {
            static const char none[8];
            if (unlink(path) && errno != ENOENT) code = errno;
            /* Not from under a reader that holds it, who does it afterwards: `wdkm_copy_mapped`. The magic goes first, so that it
             * can tell this from a file that somebody removed while T lives on in its memory. */
            if (!code && status.st_size >= punch && pwrite(fd, none, sizeof none, 0) == sizeof none &&
                !flock(fd, LOCK_EX | LOCK_NB) &&
                fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page, status.st_size - page))
                code = errno;
        }
        close(fd);
        return code;
    }
    static int wdkm_punch(int fd, off_t offset, off_t length) {
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
    }
    """
    int wdkm_discard(const char *, long long, long long) nogil
    int wdkm_punch(int fd, long long offset, long long length) nogil

cdef enum:
    FIRST = 3  # what is written to the standard output or error must not come to lie in a segment


def above(int fd):
    """Return the descriptor, or in its place another one of the same file, if its number is one of the standard three."""
    if fd >= FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST)
    finally:
        os.close(fd)


cdef class File:
    """Which file a descriptor is of."""

    cdef readonly int fd
    cdef unsigned long long device
    cdef unsigned long long inode

    def __init__(self, int fd):
        cdef struct_stat status
        self.fd = fd
        if fstat(fd, &status) != 0:
            raise OSError(errno, os.strerror(errno))
        self.device = status.st_dev
        self.inode = status.st_ino

    def is_here(self):
        """Whether the descriptor is still of this file."""
        cdef struct_stat status
        return fstat(self.fd, &status) == 0 and status.st_dev == self.device and status.st_ino == self.inode

    def close(self):
        """Close the descriptor, unless it is another file's by now."""
        if self.is_here():
            os.close(self.fd)


class Descriptor(int):
    """A descriptor that is closed when it goes out of use, at the latest: a signal handler may raise at any bytecode, and then
    nobody has it any more. It is the number, too."""

    def __del__(self):
        self.close()

    def close(self):
        """Close it, once, unless it is another file's by now."""
        cdef int fd
        cdef struct_stat status
        file, self.file = self.file, None
        if file is not None:
            fd = self
            if fstat(fd, &status) == 0 and (status.st_dev, status.st_ino) == file:
                close(fd)

    def detach(self):
        """Return the number; from now on the caller closes it."""
        self.file = None
        return int(self)


def open_shared(str name not None, int flags):
    """shm_open(3), as posix_ipc has it. No Python code runs between the opening and the end."""
    return owned(above(posix_ipc.SharedMemory(name, flags, mode=0o600, size=0).fd))


def owned(int fd):
    """Return the :class:`Descriptor` that ``fd`` is from now on."""
    cdef struct_stat status
    descriptor = Descriptor(fd)
    descriptor.file = None
    if fstat(fd, &status) != 0:
        raise OSError(errno, os.strerror(errno))
    descriptor.file = status.st_dev, status.st_ino
    return descriptor


def discard_shared(str name not None, long long punch, long long page):
    """Remove a shared memory segment, and give its memory back from ``page`` on if it is of ``punch`` bytes or more.

    In C, because the last handle of a mutex does this as it goes: what a signal handler raised in Python code there would be
    lost, and with it the segment.
    """
    cdef bytes path = b"/dev/shm" + name.encode()
    cdef int code = wdkm_discard(path, punch, page)
    if code != 0:
        raise OSError(code, os.strerror(code), name)


def punch_hole(int fd, long long offset, long long length):
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE: give the memory of a range of an open segment back."""
    if wdkm_punch(fd, offset, length) != 0:
        raise OSError(errno, os.strerror(errno))
