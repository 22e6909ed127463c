"""Pool segments: made, checked, and mapped once per process.

A segment is published by writing its magic last. Whoever maps it checks every field of the header that could make
the bytes mean something else: layout, size of a pthread mutex, C library, word size, boot and pid namespace.
"""

cdef bint lock_memory

cdef extern from *:
    """
    #include <sys/mman.h>
    """
    int madvise(void *address, size_t length, int advice) nogil
    int MADV_DONTNEED

# Whether what is mapped shall stay in memory, never be paged out: mlock(2).
lock_memory = os.environ.get("WDKMUTEX_MLOCK") == "1"

cdef object attached = WeakValueDictionary()
# Two mappings of one segment would be two accounts of who holds what in it. Recursive, for a signal handler that attaches.
cdef object attaching = RLock()


@in_child
def renew_lock():
    """In a forked child: whoever held it in the parent is not here to release it."""
    global attaching
    attaching = RLock()


@cython.no_gc
cdef class Segment:
    """One pool segment. Made by :meth:`create` or :meth:`attach`; unmapped when nothing refers to it any more.

    Attributes:
        name: of the shared memory segment.
        prefix: of the pool that it belongs to.
        count: number of slots.
        number: which segment of the pool it is, -1 if its name does not say so.
        nonce: random number that tells this segment from another of the same name.
    """

    cdef readonly str name
    cdef readonly str prefix
    cdef wdkm_header *header
    cdef wdkm_slot *slots
    cdef wdkm_local *local
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t number
    cdef size_t size
    cdef int fd
    cdef uint64_t device  # of the file that it is of, and the inode
    cdef uint64_t inode
    cdef bint closed
    cdef set mapped
    cdef object __weakref__

    def __cinit__(self):
        self.fd = -1
        self.mapped = set()

    @staticmethod
    def create(str name not None, str prefix not None, uint32_t slots):
        """Make and publish a segment of ``slots`` free slots.

        Raises:
            FileExistsError: the name is taken.
            PagedPoolAllocFailed: no room.
        """
        cdef Segment self = Segment.__new__(Segment)
        cdef wdkm_header *header
        cdef uint32_t index
        cdef const unsigned char[::1] boot = identity.boot_id()
        require_robust_locks()
        self._named(name, prefix)
        maker = os.getpid()
        fd = shm.create(name, WDKM_HEADER + slots * sizeof(wdkm_slot))
        try:
            self._adopt(fd, WDKM_HEADER + slots * sizeof(wdkm_slot), slots)
            in_use.share(fd, name)  # before it can be found to be nobody's
            header = self.header
            header.layout = WDKM_LAYOUT
            header.mutex_size = sizeof(pthread_mutex_t)
            header.slot_size = sizeof(wdkm_slot)
            header.slots = slots
            header.word_size = sizeof(void *)
            header.libc = WDKM_LIBC
            header.pid_namespace = identity.pid_namespace()
            memcpy(header.boot_id, &boot[0], 16)
            header.nonce = int.from_bytes(os.urandom(8), "little") | 1
            header.creator_pid, header.creator_start = identity.me()
            header.next_serial = 1
            for index in range(slots):
                if wdkm_mutex_init(&self.slots[index]) != 0:
                    raise MemoryError("pthread_mutex_init")
            wdkm_store64(&header.magic, WDKM_MAGIC)
        except BaseException:
            shm.unmake(name, maker)
            raise
        attached[name, header.nonce] = self
        return self

    @staticmethod
    def attach(str name not None, str prefix not None, nonce=None):
        """Map an existing segment, or return it as it is mapped already.

        ``nonce`` demands a certain segment of that name.

        Raises:
            FileNotFoundError: there is no such segment.
            MutexDestroyed: a segment of that name is there, but it is another one.
            SegmentRefused: it is not ours. LayoutMismatch: it is not one of ours to read.
            OtherPidNamespace: it is one of ours, but the pids in it mean nothing here.
        """
        cdef Segment self
        if nonce is not None:
            self = attached.get((name, nonce))
            if self is not None:
                return self
        require_robust_locks()
        self = Segment.__new__(Segment)
        self._named(name, prefix)
        fd = shm.open_segment(name)
        size = os.fstat(fd).st_size
        if size < WDKM_HEADER:
            fd.close()
            raise LayoutMismatch(
                f"shared memory segment {name} has {size} bytes and no header: its maker died, or it belongs to another "
                "program; "
                "remove it with `wdkmutex-daemon sweep`", name=name, field="size", found=size, expected=WDKM_HEADER)
        self._adopt(fd, size, 0)
        self._check()  # so that no lock of ours is ever on what others use
        in_use.share(fd, name)
        self._check()  # somebody may have taken it over meanwhile
        if nonce is not None and self.header.nonce != <uint64_t>nonce:
            raise MutexDestroyed(f"segment {name} was removed and created again since this handle was made", name=name)
        settle_after_fork()
        with attaching:
            found = attached.get((name, self.header.nonce))
            if found is not None:
                return found
            attached[name, self.header.nonce] = self
        return self

    @staticmethod
    def of_the_dead(str name not None, str prefix not None, fd):
        """Map a segment of any pid namespace, for who is alone with it. ``fd`` goes with it.

        Raises:
            LayoutMismatch: it is not one of ours to read.
        """
        cdef Segment self = Segment.__new__(Segment)
        self._named(name, prefix)
        size = os.fstat(fd).st_size
        if size < WDKM_HEADER:
            fd.close()
            raise LayoutMismatch(f"shared memory segment {name} has no header", name=name, field="size", found=size)
        self._adopt(fd, size, 0)
        self._check(anybodys=True)
        return self

    @staticmethod
    def nowhere():
        """Return a segment of one slot that has no name, belongs to no pool, and never has a tenant."""
        cdef Segment self = Segment.__new__(Segment)
        cdef size_t size = WDKM_HEADER + sizeof(wdkm_slot)
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError
        self._named("", "")
        self.size = size
        self.header = <wdkm_header *>base
        self.slots = <wdkm_slot *>(<char *>base + WDKM_HEADER)
        self._set_count(1)
        if wdkm_mutex_init(self.slots) != 0:
            raise MemoryError
        return self

    def _named(self, str name, str prefix):
        number = name.rpartition(".p")[2]
        self.name = name
        self.prefix = prefix
        self.number = int(number) if number.isdecimal() and len(number) < 10 else -1

    def _adopt(self, file, size_t size, Py_ssize_t count):
        """Map a file of an open descriptor, which is kept as long as the mapping: it leads others to a segment that has
        lost its name."""
        cdef int fd = file
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        cdef int code = errno
        self._keep(file.detach())
        if base == MAP_FAILED:
            raise shm.no_room(self.name, size, OSError(code, os.strerror(code)))
        self.size = size
        self.header = <wdkm_header *>base
        self.slots = <wdkm_slot *>(<char *>base + WDKM_HEADER)
        self._set_count(count or (size - WDKM_HEADER) // sizeof(wdkm_slot))
        if lock_memory and mlock(base, size) != 0:
            raise shm.no_room(self.name, size, OSError(errno, os.strerror(errno)))

    def _keep(self, int fd):
        cdef struct_stat status
        self.fd = fd
        if fstat(fd, &status) == 0:
            self.device, self.inode = status.st_dev, status.st_ino

    cdef bint is_open(self) noexcept:
        """Whether the descriptor that was kept is still of the segment: the process may have closed all that it had."""
        cdef struct_stat status
        return (self.fd >= 0 and fstat(self.fd, &status) == 0 and status.st_dev == self.device
                and status.st_ino == self.inode)

    def _set_count(self, Py_ssize_t count):
        self.local = <wdkm_local *>calloc(count or 1, sizeof(wdkm_local))
        if self.local == NULL:
            raise MemoryError
        self.count = count

    def _check(self, *, anybodys=False):
        cdef wdkm_header *header = self.header
        facts = [
            ("magic", wdkm_load64(&header.magic), WDKM_MAGIC),
            ("layout", header.layout, WDKM_LAYOUT),
            ("sizeof(pthread_mutex_t)", header.mutex_size, sizeof(pthread_mutex_t)),
            ("slot size", header.slot_size, sizeof(wdkm_slot)),
            ("word size", header.word_size, sizeof(void *)),
            ("C library", header.libc, WDKM_LIBC),
        ]
        for field, found, expected in facts:
            if found != expected:
                raise LayoutMismatch(
                    f"shared memory segment {self.name}: {field} is {found!r} there and {expected!r} here; "
                    "use one version for all processes of an instance, or give this one its own instance",
                    name=self.name, field=field, found=found, expected=expected)
        facts = [
            ("boot id", (<const char *>header.boot_id)[:16], identity.boot_id()),
            ("pid namespace", header.pid_namespace, identity.pid_namespace()),
        ]
        for field, found, expected in facts:
            if found != expected and not anybodys:
                raise OtherPidNamespace(
                    f"shared memory segment {self.name} is of another container: {field} is {found!r} there and "
                    f"{expected!r} here, so the holder of a lock there could not be identified here; let the containers share "
                    "one "
                    "pid namespace (docs/how-to/containers.md), or give each its own instance (WDKMUTEX_INSTANCE)",
                    name=self.name, field=field, found=found, expected=expected)
        if header.slots > self.count:
            raise LayoutMismatch(
                f"shared memory segment {self.name} is cut short: room for {self.count} slots of {header.slots}",
                name=self.name, field="slots", found=self.count, expected=header.slots)
        self.count = header.slots

    cdef wdkm_slot *at(self, Py_ssize_t index) except NULL:
        if not 0 <= index < self.count:
            raise MutexDestroyed(f"segment {self.name} has no slot {index}", name=self.name)
        return &self.slots[index]

    @property
    def nonce(self):
        return self.header.nonce

    @property
    def creator(self):
        """Identity of the process that made the segment."""
        return identity.Identity(self.header.creator_pid, self.header.creator_start)

    @property
    def namespace(self):
        """The inode of the pid namespace whose pids are in it."""
        return self.header.pid_namespace

    def take_over(self):
        """Make the segment one of this boot and pid namespace: whatever pids are in it are of the dead."""
        cdef const unsigned char[::1] boot = identity.boot_id()
        cdef uint64_t namespace = identity.pid_namespace()
        self.header.server_pid = 0
        memcpy(self.header.boot_id, &boot[0], 16)
        wdkm_store64(&self.header.pid_namespace, namespace)  # last: until then it is to be taken over

    @property
    def descriptor(self):
        """The open file descriptor, or -1: none was kept, or it was closed by others."""
        return self.fd if self.is_open() else -1

    def has_name(self):
        """Whether its name still leads to this segment."""
        cdef struct_stat found
        cdef bytes path = (shm.FOLDER + self.name).encode()
        if stat(path, &found) != 0:
            if errno == ENOENT:
                return False
            raise OSError(errno, os.strerror(errno), shm.FOLDER + self.name)
        return found.st_dev == self.device and found.st_ino == self.inode

    @property
    def size_bytes(self):
        return self.size

    def unshare(self):
        """Map the segment anew, in place, through an open file description of this process's own.

        A flock(2) belongs to the description, which forked processes share and mappings keep open: only from then on does
        that of this process say nothing of theirs.

        Raises:
            OSError: the name is gone, or another segment's. SegmentRefused, PagedPoolAllocFailed.
        """
        cdef struct_stat status
        file = shm.open_segment(self.name)
        cdef int fd = file
        try:
            if fstat(fd, &status) != 0 or status.st_dev != self.device or status.st_ino != self.inode:
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), self.name)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Whatever thread is in the midst of using it finds the same pages at the same place.
            if mmap(self.header, self.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED:
                raise OSError(errno, os.strerror(errno), self.name)
            if self.is_open():
                os.dup2(fd, self.fd, False)
            else:
                self.fd = file.detach()
        finally:
            file.close()

    def flag_destroyed(self):
        """Record that the pool is being destroyed, so that a successor finishes it."""
        self.header.destroyed = 1

    def abandon(self):
        """Note that the names of this pool are gone for good: no data segment is made in it any more."""
        self.closed = True

    @property
    def destroyed(self):
        return self.header.destroyed != 0

    def take_serials(self, uint64_t count):
        """Return the first of the next ``count`` serials of the pool (segment 0 counts for all)."""
        self.header.next_serial += count
        return self.header.next_serial - count

    def trim(self):
        """Let the pages go that this process has touched. They stay in shared memory, and come back when touched."""
        if not lock_memory:
            madvise(self.header, self.size, MADV_DONTNEED)

    def raise_serial(self, uint64_t at_least):
        """Make sure that the next serial is above ``at_least``."""
        if self.header.next_serial <= at_least:
            self.header.next_serial = at_least + 1

    def set_server(self, uint32_t pid, bytes path not None):
        """Note in the header who serves the instance and at which socket (at most 107 bytes)."""
        if <size_t>len(path) >= sizeof(self.header.server_path):
            raise ValueError("socket path too long")
        self.header.server_pid = 0
        memcpy(self.header.server_path, <const char *>path, len(path) + 1)
        self.header.server_pid = pid

    @property
    def server(self):
        """(pid, socket path) of the daemon that served last, or None."""
        cdef bytes path = (<const char *>self.header.server_path)[:sizeof(self.header.server_path)]
        if self.header.server_pid == 0:
            return None
        return self.header.server_pid, os.fsdecode(path.split(b"\0")[0])

    def __dealloc__(self):
        cdef Py_ssize_t index
        if self.local != NULL:
            if wdkm_planted("free-twice"):
                free(self.local)
            for index in self.mapped:
                for which in range(2):
                    if self.local[index].maps[which].base != NULL:
                        munmap(self.local[index].maps[which].base, self.local[index].maps[which].size)
                free(self.local[index].maps)
            free(self.local)
        if self.header != NULL:
            munmap(self.header, self.size)
        if self.is_open():
            close(self.fd)  # not os.close: at the end of the interpreter there may be no `os` any more

    def __repr__(self):
        return f"<Segment {self.name}, {self.count} slots>"


def attached_segments():
    """Return the segments that this process has mapped now."""
    return list(attached.values())
