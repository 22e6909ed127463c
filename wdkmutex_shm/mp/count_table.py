"""The numbers of a queue's items, process by process, as :mod:`.item_counts` keeps them: a list, changed as a whole."""

from __future__ import annotations

from .process_key import is_dead
from .shared_state import State

__all__ = [
    "DOUBT",
    "EARLY",
    "FIRST",
    "IN_HAND",
    "PARTY",
    "RESERVED",
    "SENDER_DIED",
    "SENT",
    "STILL",
    "TAKER_DIED",
    "TAKES",
    "WIDTH",
    "add",
    "bury",
    "dead_in",
    "entry_of",
    "limit_early",
    "total",
]

EARLY, DOUBT, STILL, FIRST = range(4)
PARTY, RESERVED, SENT, IN_HAND, TAKES = range(5)
WIDTH = 5
TAKER_DIED, SENDER_DIED = 1, 2  # bits of the doubt; the first also where a living one lost what it took


def entry_of(state: State, party: int) -> int | None:
    for at in range(FIRST, len(state), WIDTH):
        if state[at] == party:
            return at
    return None


def add(state: State, party: int, column: int, number: int) -> None:
    """Change a number of a process; strike off a process all of whose numbers are zero."""
    state[STILL] = 0
    at = entry_of(state, party)
    if at is None:
        if number < 0:
            return  # it died, and was struck off
        at = len(state)
        state += (party, 0, 0, 0, 0)
    state[at + column] += number
    if not any(state[at + 1 : at + WIDTH]):
        del state[at : at + WIDTH]


def total(state: State, *columns: int) -> int:
    return sum(sum(state[FIRST + column :: WIDTH]) for column in columns)


def dead_in(state: State) -> set[int]:
    """Who died with something that is to be struck off: whose items lie in the channel stays, and changes nothing."""
    entries = (state[at : at + WIDTH] for at in range(FIRST, len(state), WIDTH))
    return {
        party
        for party, reserved, sent, in_hand, takes in entries
        if (reserved or sent < 0 or in_hand or takes) and is_dead(party)
    }


def bury(state: State, dead: set[int]) -> None:
    """Strike off what the dead had reserved or in hand. What they had sent lies in the channel, and is counted."""
    for at in reversed(range(FIRST, len(state), WIDTH)):
        if state[at] in dead:
            if state[at + TAKES]:
                state[DOUBT] |= TAKER_DIED
            if state[at + RESERVED]:
                state[DOUBT] |= SENDER_DIED
            state[STILL] = 0  # what it took or sent last may be on its way
            state[at + RESERVED] = state[at + IN_HAND] = state[at + TAKES] = 0
            state[at + SENT] = max(0, state[at + SENT])  # below zero: taken, and still among what was reserved
            if not state[at + SENT]:
                del state[at : at + WIDTH]
    limit_early(state)


def limit_early(state: State) -> None:
    """What was done early and is lost is not to be counted off again: with the next item that somebody puts."""
    state[EARLY] = min(state[EARLY], max(0, total(state, RESERVED, SENT)))
