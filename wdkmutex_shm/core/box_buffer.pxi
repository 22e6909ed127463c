"""The bytes of a box, lent out through the buffer protocol."""

cdef class BoxedBytes:
    """Read-only msgpack bytes in a slot that nobody else writes, with a count of who looks at them."""

    cdef Segment segment
    cdef Py_ssize_t index
    cdef readonly Py_ssize_t exports
    cdef object home  # the handle that owns the slot: it gives it back when nobody looks at the bytes any more
    cdef object kept  # a descriptor with the shared flock(2) on a large data segment, while somebody looks at it

    def __cinit__(self, Segment segment not None, Py_ssize_t index, home):
        segment.at(index)
        self.segment = segment
        self.index = index
        self.home = home

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef Py_ssize_t length = 0
        cdef const unsigned char *data
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("the bytes of a box are read-only")
        current(self.segment, self.index, &length)
        self.exports += 1
        self.segment.local[self.index].lent += 1
        try:
            if self.kept is None and length > WDKM_INLINE:
                self.keep()
            data = current(self.segment, self.index, &length)  # once more: it may have been freed before it was kept
        except BaseException:
            self.let_go()
            raise
        PyBuffer_FillInfo(buffer, self, <void *>data, length, 1, flags)

    cdef int keep(self) except -1:
        """Keep a large data segment from being punched: the box may be freed by the parent of this process."""
        cdef wdkm_slot *slot = &self.segment.slots[self.index]
        cdef int buffer = slot.commit & 1
        cdef int fd
        if self.segment.local[self.index].maps[buffer].size >= PUNCH:
            fd = wdkm_keep_data(PyUnicode_AsUTF8(self.segment.prefix), slot.data[buffer])
            if fd >= 0:
                self.kept = owned(fd)
        return 0

    cdef void let_go(self):
        self.exports -= 1
        self.segment.local[self.index].lent -= 1
        if self.exports == 0 and self.kept is not None:
            self.kept.close()
            self.kept = None

    def decode(self, codec):
        """T as a codec reads it from the bytes."""
        view = memoryview(self)
        try:
            return codec.decode(view)
        finally:
            view.release()

    def forget(self):
        """Unmap the bytes of a box that was freed."""
        forget_stale(self.segment, self.index)

    def __releasebuffer__(self, Py_buffer *buffer):
        self.let_go()
