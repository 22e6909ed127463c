/* A slot's life, for Spin: every interleaving of clients that lock, commit, peek and die with an allocator that frees the slot
 * and lets the next tenant in. The steps and their order are those of lock.pxi, payload.pxi, tenant.pxi; a process may
 * die between any two of them. What is not modelled: weak memory (the fences are argued for in docs/explanation/architecture.md), time.
 *
 * T is a number, written in two halves so that a torn T shows; its tens tell the tenant. `published` is what the last
 * commit published: whoever reads T under the lock must find just that.
 *
 * -DPUBLISH_FIRST, -DNO_CONSISTENT, -DNO_GENERATION, -DNO_QUARANTINE, -DNO_PENDING, -DKEEP_ID inject a fault each; the tool
 * `model` gives them and the sizes below.
 */
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef OPERATIONS
#define OPERATIONS 1      /* of each client */
#endif
#ifndef DEATHS
#define DEATHS 1          /* of all processes together */
#endif
#ifndef TENANTS
#define TENANTS 2
#endif
#ifndef SEGMENTS
#define SEGMENTS 4        /* data segments that can be made; ids are never used twice */
#endif
#ifndef PEEKS
#define PEEKS 1
#endif

#define ALLOCATOR (CLIENTS + 1)
#define SURVIVOR  (CLIENTS + 2)

/* The robust mutex. */
byte holder;              /* 0: free */
bool owner_died;          /* FUTEX_OWNER_DIED */
bool inconsistent;        /* acquired after a death, not yet marked consistent */
bool unrecoverable;

/* The slot. */
byte generation = 1;      /* odd: a tenant lives here */
byte commit;              /* its low bit names the current buffer */
byte pending;             /* id of a data segment in the making, or going */
typedef Buffer { byte low; byte high; bool large; byte id }
Buffer buffer[2];

/* Shared memory: data segments by id. */
typedef Segment { bool exists; byte low; byte high }
Segment segment[SEGMENTS + 1];
byte next_id = 1;

/* What nobody can see. */
byte published;
byte deaths;
byte running;

#define TENANT(generation_)  (((generation_) + 1) / 2)
#define MAY_DIE  if :: atomic { deaths < DEATHS -> deaths++; goto dead } :: skip fi

inline acquire(who)
{
    atomic {
        holder == 0;
        assert(!unrecoverable);
        holder = who;
        inconsistent = owner_died;
        owner_died = false
    }
}

inline release()
{
    atomic {
        unrecoverable = unrecoverable || inconsistent;
        inconsistent = false;
        holder = 0
    }
}

inline remove(gone_id)
{
    atomic { segment[gone_id].exists = false; segment[gone_id].low = 0; segment[gone_id].high = 0 }
}

inline remove_pending()
{
    if
    :: pending != 0 ->
        if
        :: pending != buffer[0].id && pending != buffer[1].id -> remove(pending)
        :: else
        fi;
        MAY_DIE;
        pending = 0
    :: else
    fi
}

/* The holder after EOWNERDEAD. */
inline take_over()
{
    if
    :: inconsistent ->
        if
        :: generation % 2 == 1 -> remove_pending()
        :: else
        fi;
        MAY_DIE;
#ifndef NO_CONSISTENT
        inconsistent = false
#endif
    :: else
    fi
}

/* Give the data segment of a buffer back. */
inline drop(side)
{
    remove_pending();
    MAY_DIE;
    pending = buffer[side].id;
    MAY_DIE;
#ifdef KEEP_ID
    remove(pending);
    MAY_DIE;
    buffer[side].id = 0;
    pending = 0
#else
    buffer[side].id = 0;
    MAY_DIE;
    remove_pending()
#endif
}

/* Remove what a vacated slot has; for the holder of its lock. */
inline empty_buffer(side)
{
    if
    :: buffer[side].id != 0 -> remove(buffer[side].id); MAY_DIE; buffer[side].id = 0
    :: else
    fi
}

inline empty_slot()
{
    empty_buffer(0);
    MAY_DIE;
    empty_buffer(1);
    MAY_DIE;
    if
    :: pending != 0 -> remove(pending); MAY_DIE; pending = 0
    :: else
    fi
}

inline publish(number)
{
    atomic { commit++; published = number }
}

inline read_current()
{
    atomic {
        which = commit % 2;
        if
        :: buffer[which].large ->
            id = buffer[which].id;
            assert(id != 0 && segment[id].exists);
            low = segment[id].low; high = segment[id].high
        :: else -> low = buffer[which].low; high = buffer[which].high
        fi;
        assert(low == high);
        assert(low == published);
        id = 0; high = 0; which = 0
    }
}

/* What the kernel does when a process ends. */
inline kernel_cleans_up(who)
{
    atomic {
        if
        :: holder == who -> holder = 0; owner_died = true; inconsistent = false
        :: else
        fi
    }
}

proctype Client(byte me)
{
    byte operations = OPERATIONS;
    byte mine;                    /* generation that the handle means */
    byte low, high, id, which;

next:
    do
    :: operations == 0 -> break
    :: operations > 0 && mine == 0 && generation % 2 == 0 -> break              /* there is no mutex to get */
    :: operations > 0 && generation % 2 == 1 && (mine == 0 || mine != generation) ->
        atomic { if :: generation % 2 == 1 -> mine = generation :: else fi }   /* gets a handle */
    :: operations > 0 && mine != 0 ->
        operations--;
        if
        :: acquire(me)
        :: atomic { mine != generation -> goto next }                          /* told while waiting */
        fi;
        MAY_DIE;
        take_over();
        MAY_DIE;
#ifndef NO_GENERATION
        if
        :: mine != generation -> goto unlock
        :: else
        fi;
#endif
        if
        :: /* to_owned: consume the mutex */
            atomic { if :: generation == mine -> generation++ :: else -> goto unlock fi };
            MAY_DIE;
            empty_slot()
        :: /* read, change, commit */
            read_current();
            MAY_DIE;
#ifndef NO_GENERATION
            if
            :: mine != generation -> goto unlock
            :: else
            fi;
#endif
            low = low + 1;
            which = (commit + 1) % 2;
            if
            :: /* T is small */
#ifdef PUBLISH_FIRST
                publish(low); MAY_DIE;
#endif
                buffer[which].large = false;
                buffer[which].low = low;
                MAY_DIE;
                buffer[which].high = low
            :: /* T is large */
                if
                :: buffer[which].id != 0        /* what is there fits */
                :: buffer[which].id == 0 || next_id <= SEGMENTS ->
                    if
                    :: buffer[which].id != 0 -> drop(which)
                    :: else
                    fi;
                    remove_pending();
                    atomic {
                        if
                        :: next_id > SEGMENTS -> goto unlock
                        :: else -> id = next_id; next_id++
                        fi
                    };
                    MAY_DIE;
#ifndef NO_PENDING
                    pending = id;
                    MAY_DIE;
#endif
                    segment[id].exists = true;
                    MAY_DIE;
                    if
                    :: generation != mine -> pending = id; remove_pending(); goto unlock
                    :: else
                    fi;
                    buffer[which].id = id;
                    MAY_DIE;
                    pending = 0
                fi;
                MAY_DIE;
                id = buffer[which].id;
#ifdef PUBLISH_FIRST
                publish(low); MAY_DIE;
#endif
                buffer[which].large = true;
                segment[id].low = low;
                MAY_DIE;
                segment[id].high = low;
                id = 0
            fi;
            MAY_DIE;
#ifndef PUBLISH_FIRST
            publish(low);
#endif
            MAY_DIE;
            if                                  /* give back what is too much */
            :: buffer[which].id != 0 && !buffer[which].large -> drop(which)
            :: buffer[1 - which].id != 0 -> drop(1 - which)
            :: skip
            fi
        fi;
unlock:
        MAY_DIE;
        atomic { low = 0; which = 0; id = 0 };
        release()
    od;
    goto ended;

dead:
    kernel_cleans_up(me);
    atomic { mine = 0; low = 0; which = 0; id = 0 };
    goto next;                    /* another process takes its place */
ended:
    running--
}

proctype Reader()
{
    byte peeks = PEEKS;
    byte mine, seen, low, high, id, which;
    bool gone;

    if
    :: atomic { generation % 2 == 1 -> mine = generation }
    :: generation % 2 == 0 -> goto ended                       /* there is no mutex to peek at */
    fi;
    do
    :: peeks > 0 ->
        peeks--;
        atomic { seen = commit; which = seen % 2; gone = false };
        if
        :: buffer[which].large ->
            id = buffer[which].id;
            atomic {
                if
                :: segment[id].exists -> low = segment[id].low
                :: else -> gone = true
                fi
            };
            if
            :: !gone -> high = segment[id].high
            :: else
            fi
        :: else -> low = buffer[which].low; high = buffer[which].high
        fi;
        if
        :: atomic { seen == commit ->
            if
            :: mine == generation ->
                assert(!gone);
                assert(low == high);
                assert(low / 10 == TENANT(mine))
            :: else
            fi }
        :: seen != commit             /* tries again; the try after is as this one */
        fi
    :: peeks == 0 -> break
    od;
ended:
    running--
}

proctype Allocator()
{
    byte tenants = 1;
    byte which;

    do
    :: tenants == TENANTS -> break
    :: tenants < TENANTS ->
        if
        :: atomic { generation % 2 == 1 -> generation++ }      /* vacate */
        :: generation % 2 == 0                                 /* somebody consumed the mutex */
        fi;
        MAY_DIE;
reclaim:
#ifndef NO_QUARANTINE
        acquire(ALLOCATOR);                                    /* trylock, until it has it */
        MAY_DIE;
        inconsistent = false;
#endif
        empty_slot();
        MAY_DIE;
#ifndef NO_QUARANTINE
        release();
#endif
        MAY_DIE;
        /* occupy */
        which = (commit + 1) % 2;
        buffer[which].large = false;
        buffer[which].low = 10 * TENANT(generation + 1);
        MAY_DIE;
        buffer[which].high = 10 * TENANT(generation + 1);
        MAY_DIE;
        commit++;
        MAY_DIE;
        atomic { published = 10 * TENANT(generation + 1); generation++; tenants++ }
    od;
    goto ended;
dead:
    kernel_cleans_up(ALLOCATOR);
    if
    :: generation % 2 == 0 -> goto reclaim                     /* recovery cleans what is vacant */
    :: else
    fi;
ended:
    running--
}

/* At the end somebody locks: the lock can be acquired, T is what was published, nothing is left behind. */
proctype Survivor()
{
    byte low, high, id, which;

    atomic { running == 1; deaths = DEATHS };    /* nobody kills this one */
    acquire(SURVIVOR);
    take_over();
    if
    :: generation % 2 == 1 -> read_current()
    :: else -> empty_slot()
    fi;
    release();
    d_step {
        id = 1;
        do
        :: id <= SEGMENTS ->
            assert(!segment[id].exists || id == buffer[0].id || id == buffer[1].id);
            id++
        :: else -> break
        od
    };
    running--;
    goto ended;
dead:
    assert(false);
ended:
    skip
}

init
{
    byte i;
    atomic {
        buffer[0].low = 10; buffer[0].high = 10;
        published = 10;
        running = CLIENTS + 3;
        deaths = 0;
        i = 1;
        do
        :: i <= CLIENTS -> run Client(i); i++
        :: else -> break
        od;
        run Reader();
        run Allocator();
        run Survivor()
    }
}
