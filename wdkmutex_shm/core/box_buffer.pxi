"""The bytes of a box, lent out through the buffer protocol."""

cdef class BoxedBytes:
    """Read-only msgpack bytes in a slot that nobody else writes, with a count of who looks at them."""

    cdef Segment segment
    cdef Py_ssize_t index
    cdef readonly Py_ssize_t exports
    cdef object home  # the handle that owns the slot: it gives it back when nobody looks at the bytes any more

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
        data = current(self.segment, self.index, &length)
        PyBuffer_FillInfo(buffer, self, <void *>data, length, 1, flags)
        self.exports += 1
        self.segment.local[self.index].lent += 1

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
        self.exports -= 1
        self.segment.local[self.index].lent -= 1
