# cython: language_level=3, boundscheck=False, wraparound=False
"""Sending and receiving a file over a socket where the process has no descriptor free.

A message that carries a descriptor is taken from its socket first, and then its descriptor finds a place or is lost
(unix(7), MSG_CTRUNC). No place can be kept for it in a table that all threads of a process open files in. So this is
done by a child that shares the memory of its parent and has a table of descriptors of its own, a copy in which it makes
room (clone(2), CLONE_VM without CLONE_FILES, as vfork(2) does it). It takes 0.1 ms.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from posix.mman cimport munmap

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/wait.h>
    #include <unistd.h>

    enum { WDKM_APART_STACK = 1 << 16, WDKM_APART_MOST = 1 << 20 };

    typedef struct {
        int sock;
        char *message;    /* what goes through the socket itself */
        size_t length;    /* of it; when receiving, the room for it */
        char *body;       /* what is in the file */
        size_t size;
        const char *head; /* when sending: what the file begins with */
        size_t head_size;
        int code;         /* an errno */
    } wdkm_apart;

    typedef union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } wdkm_apart_control;

    /* In the child: whatever is closed here stays open in the parent. */
    static void wdkm_apart_make_room(int sock) {
        for (int fd = 0; fd < WDKM_APART_MOST; fd++)
            if (fd != sock && close(fd) == 0)
                return;
    }

    static int wdkm_apart_take(void *argument) {
        wdkm_apart *one = argument;
        wdkm_apart_control control;
        struct iovec part = {one->message, one->length};
        struct msghdr what = {.msg_iov = &part, .msg_iovlen = 1,
                              .msg_control = &control, .msg_controllen = sizeof control};
        struct cmsghdr *found;
        struct stat status;
        ssize_t length;
        int fd;
        wdkm_apart_make_room(one->sock);
        length = recvmsg(one->sock, &what, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        one->code = length < 0 ? errno : 0;
        if (length < 0)
            return 0;
        one->length = (size_t)length;
        found = CMSG_FIRSTHDR(&what);
        if (found == NULL)
            return 0;
        memcpy(&fd, CMSG_DATA(found), sizeof fd);
        if (fstat(fd, &status) || status.st_size == 0)
            return 0;
        one->size = (size_t)status.st_size;
        one->body = mmap(NULL, one->size, PROT_READ, MAP_PRIVATE, fd, 0); /* in the parent's memory as well */
        if (one->body == MAP_FAILED)
            one->body = NULL;
        return 0;
    }

    static int wdkm_apart_write(int fd, const char *from, size_t size) {
        while (size) {
            ssize_t done = write(fd, from, size);
            if (done < 0)
                return errno;
            from += done;
            size -= (size_t)done;
        }
        return 0;
    }

    static int wdkm_apart_give(void *argument) {
        wdkm_apart *one = argument;
        wdkm_apart_control control;
        struct iovec part = {one->message, one->length};
        struct msghdr what = {.msg_iov = &part, .msg_iovlen = 1,
                              .msg_control = &control, .msg_controllen = sizeof control};
        int fd;
        wdkm_apart_make_room(one->sock);
        fd = memfd_create("wdkmutex message", MFD_CLOEXEC);
        if (fd < 0)
            fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0) {
            one->code = errno;
            return 0;
        }
        one->code = wdkm_apart_write(fd, one->head, one->head_size);
        if (!one->code)
            one->code = wdkm_apart_write(fd, one->body, one->size);
        if (one->code)
            return 0;
        lseek(fd, 0, SEEK_SET);
        memset(&control, 0, sizeof control);
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        one->code = sendmsg(one->sock, &what, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
        return 0;
    }

    /* Returns an errno if no child could be had: nothing was done then. */
    static int wdkm_apart_run(int (*what)(void *), wdkm_apart *one) {
        sigset_t all, before;
        char *stack = malloc(WDKM_APART_STACK);
        int code = 0;
        pid_t child;
        if (stack == NULL)
            return ENOMEM;
        sigfillset(&all); /* a handler must not run in the child */
        pthread_sigmask(SIG_SETMASK, &all, &before);
        /* No signal tells of its end, and only a wait that asks for it finds it. */
        child = clone(what, stack + WDKM_APART_STACK, CLONE_VM | CLONE_VFORK, one);
        if (child < 0)
            code = errno;
        else
            while (waitpid(child, NULL, __WCLONE) < 0 && errno == EINTR)
                ;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        free(stack);
        return code;
    }
    """
    ctypedef struct wdkm_apart:
        int sock
        char *message
        size_t length
        char *body
        size_t size
        const char *head
        size_t head_size
        int code
    int wdkm_apart_take(void *) noexcept nogil
    int wdkm_apart_give(void *) noexcept nogil
    int wdkm_apart_run(int (*)(void *) noexcept nogil, wdkm_apart *) nogil
    int ENOSYS


cdef int run(int (*what)(void *) noexcept nogil, wdkm_apart *one) except? -1:
    cdef int code
    one.code = ENOSYS  # until the child says otherwise
    with nogil:
        code = wdkm_apart_run(what, one)
    if code:
        raise ChildProcessError(code, os.strerror(code))
    if one.code:
        raise OSError(one.code, os.strerror(one.code))
    return 0


def receive(int sock, size_t most):
    """Take a message that is there from a socket.

    Returns:
        What went through the socket itself, and what is in the file that came with it; None if none did, or there was
        no room in memory for it.

    Raises:
        BlockingIOError: there is none. ChildProcessError: no child can be had. Nothing was taken.
    """
    cdef wdkm_apart one = wdkm_apart(sock, NULL, most, NULL, 0, NULL, 0, 0)
    cdef bytearray message = bytearray(most)
    one.message = PyByteArray_AS_STRING(message)
    run(wdkm_apart_take, &one)
    inline = bytes(message[:one.length])
    if one.body == NULL:
        return inline, None
    try:
        return inline, PyBytes_FromStringAndSize(one.body, one.size)
    finally:
        munmap(one.body, one.size)


def send(int sock, bytes message not None, bytes head not None, const unsigned char[::1] body not None):
    """Send a message and, with it, a file that holds ``head`` and ``body``.

    Raises:
        BlockingIOError: there is no room for it now. OSError: it could not be sent (ChildProcessError: for want of a
            child).
    """
    cdef wdkm_apart one = wdkm_apart(sock, NULL, len(message), NULL, body.shape[0], NULL, len(head), 0)
    one.message = PyBytes_AS_STRING(message)
    one.head = PyBytes_AS_STRING(head)
    one.body = <char *>&body[0] if body.shape[0] else NULL
    run(wdkm_apart_give, &one)
