/* Sleeping on the lock word, for Spin: every interleaving of processes that lock, sleep, are woken, give up, release and die with
 * one that ends the tenancy. The steps and their order are those of park.h and of glibc's trylock and unlock; a process may die
 * between any two of them, and then the kernel does what it does for robust mutexes.
 *
 * To be shown: nobody sleeps forever. Without deaths no sleeper needs a look of its own: none ever times out here. With them,
 * a look is what the last sleepers are left with (`timeout`: when nobody can do anything else), and it is enough.
 *
 * -DNO_BIT, -DNO_REPAIR, -DNO_CLEAR, -DNO_LOOK inject a fault each; the tool `model` gives them and the sizes below.
 */
#ifndef LOCKERS
#define LOCKERS 3
#endif
#ifndef OPERATIONS
#define OPERATIONS 1      /* of each */
#endif
#ifndef DEATHS
#define DEATHS 0          /* of all together */
#endif
#ifndef LEAVES
#define LEAVES 1          /* how many waits end by a deadline or a signal */
#endif
#ifndef ENDS
#define ENDS 1            /* whether the tenancy ends */
#endif

/* The lock word: thread id, FUTEX_WAITERS, FUTEX_OWNER_DIED. */
byte owner;
bool waiters;
bool owner_died;

bool over;                      /* the generation has moved on */
bool asleep[LOCKERS + 1];       /* in the futex's queue */
bool pending[LOCKERS + 1];      /* the mutex is in list_op_pending */
byte deaths, leaves;
byte stays, gone;               /* one of them may keep the lock; who has ended */

#define FREE     (owner == 0)
#define MAY_DIE  if :: atomic { deaths < DEATHS -> deaths++; goto dead } :: skip fi

/* Any of them: the kernel wakes the one that came first, which is no matter here. */
inline wake_one()
{
    atomic {
        if
        :: asleep[1] -> asleep[1] = false
#if LOCKERS > 1
        :: asleep[2] -> asleep[2] = false
#endif
#if LOCKERS > 2
        :: asleep[3] -> asleep[3] = false
#endif
        :: else
        fi
    }
}

inline wake_all()
{
    d_step {
        asleep[1] = false;
#if LOCKERS > 1
        asleep[2] = false;
#endif
#if LOCKERS > 2
        asleep[3] = false
#endif
    }
}

/* pthread_mutex_trylock: had tells whether it was. */
inline trylock(me)
{
    pending[me] = true;
    MAY_DIE;
    atomic {
        assert(!(FREE && waiters && !owner_died));
        if
        :: FREE -> owner = me; owner_died = false; had = true   /* after a death FUTEX_WAITERS stays */
        :: else -> had = false
        fi
    };
    MAY_DIE;
    pending[me] = false
}

inline unlock(me)
{
    pending[me] = true;
    MAY_DIE;
    atomic { wake = waiters; owner = 0; waiters = false };
    MAY_DIE;
    if
    :: wake -> wake_one()
    :: else
    fi;
    atomic { wake = false; pending[me] = false }
}

inline send_sleepers()
{
#ifndef NO_CLEAR
    waiters = false;
#endif
    MAY_DIE;
    wake_all()
}

proctype Locker(byte me)
{
    byte operations = OPERATIONS;
    byte seen;
    bool had, wake, slept, leaving;

    do
    :: operations == 0 -> break
    :: operations > 0 ->
        operations--;
        trylock(me);                                    /* the fast path, past whoever sleeps */
        if
        :: had -> goto locked
        :: else
        fi;
look:
        MAY_DIE;
        atomic {
            seen = owner;
            if
            :: FREE -> goto try
            :: !FREE && waiters -> goto sleep
            :: else
            fi
        };
        MAY_DIE;
#ifdef NO_REPAIR
        if
        :: leaving -> goto left
        :: else
        fi;
#endif
        atomic {                                        /* compare and swap */
            if
            :: owner == seen -> waiters = true
            :: else -> goto look
            fi
        };
sleep:
        pending[me] = false;
        MAY_DIE;
        if
        :: over -> send_sleepers(); goto left
        :: else
        fi;
        if
        :: leaving -> goto left
        :: else
        fi;
        slept = true;
        pending[me] = true;
        MAY_DIE;
        atomic {                                        /* the kernel compares, and puts it into the queue */
            if
            :: owner == seen && waiters -> asleep[me] = true
            :: else -> goto look
            fi
        };
        do
        :: atomic { !asleep[me] -> break }
        :: atomic { !asleep[me] && leaves < LEAVES -> leaves++; leaving = true; break }     /* and the time is up as well */
        :: atomic { asleep[me] && leaves < LEAVES -> leaves++; asleep[me] = false; leaving = true; break }  /* a deadline */
        :: atomic { asleep[me] && leaves < LEAVES -> leaves++; asleep[me] = false; pending[me] = false; goto left } /* a signal */
#ifndef NO_LOOK
        :: atomic { timeout && asleep[me] && deaths > 0 -> asleep[me] = false; break }
#endif
        :: atomic { asleep[me] && deaths < DEATHS -> deaths++; goto dead }
        od;
        goto look;
try:
        trylock(me);
        if
        :: !had -> goto look
        :: else
        fi;
        MAY_DIE;
#ifndef NO_BIT
        if
        :: slept -> waiters = true
        :: else
        fi;
#endif
locked:
        MAY_DIE;
#if ENDS
        if
        :: atomic { !over && stays == 0 -> stays = 1 }; (gone == LOCKERS - 1)  /* releases it when the others have gone */
        :: skip                                         /* at once; so does who finds that there is no tenant any more */
        fi;
#endif
        unlock(me);
left:
        atomic { had = false; slept = false; leaving = false; seen = 0 }
    od;
    goto ended;

dead:                                                   /* the kernel ends the process */
    atomic {
        asleep[me] = false;
        if
        :: owner == me ->
            owner = 0; owner_died = true;
            if
            :: waiters -> wake_one()
            :: else
            fi
        :: owner != me && pending[me] && FREE -> wake_one()
        :: else
        fi;
        pending[me] = false; had = false; slept = false; leaving = false; wake = false; seen = 0
    };
ended:
    gone++
}

proctype Ender()
{
    over = true;
    MAY_DIE;
    send_sleepers();
dead:
    skip
}

init
{
    byte i = 1;
    atomic {
        do
        :: i <= LOCKERS -> run Locker(i); i++
        :: else -> break
        od;
#if ENDS
        run Ender()
#endif
    }
}
