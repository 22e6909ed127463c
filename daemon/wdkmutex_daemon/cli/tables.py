"""Tables of many rows: aligned for people, fitted to a terminal, one line a row for programs."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = ["Column", "clip", "lines", "width_of"]

_GAP = "  "


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head. right: whether the cells are aligned to the right.
        rank: columns of a higher rank are left out first where a terminal is too narrow; those of rank 0 never are.
        good: to how many places it is cut before other columns are left out; 0 if it is never cut.
        least: to how many places it is cut where none is left that could be.
        head: whether the head of a cell is what tells most, and is kept; else both ends are.
    """

    title: str
    right: bool = False
    rank: int = 0
    good: int = 0
    least: int = 0
    head: bool = False


def width_of(text: str) -> int:
    """How many places a terminal takes for the text: two for a wide character, none for one that combines."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def clip(text: str, width: int, ellipsis: str = "…", *, only_head: bool = False) -> str:
    """The text in at most ``width`` places. The middle of a longer one is left out: the ends of names often differ."""
    if width_of(text) <= width:
        return text
    room = max(0, width - len(ellipsis))
    head = tail = 0
    while True:
        ahead = (head + 1, tail) if head <= tail or only_head else (head, tail + 1)
        if width_of(text[: ahead[0]] + text[len(text) - ahead[1] :]) > room:
            return (text[:head] + ellipsis + text[len(text) - tail :])[:width]
        head, tail = ahead


def _fitted(columns: Sequence[Column], widths: list[int], room: int, drop: bool) -> tuple[list[int], list[int]]:
    """Which of the columns are shown, and how wide each is, where there are ``room`` places."""
    shown = list(range(len(columns)))

    def cut(at: int, places: int) -> int:
        return min(widths[at], max(places, len(columns[at].title))) if places else widths[at]

    def needed(wanted: list[int]) -> int:
        return sum(wanted[at] for at in shown) + len(_GAP) * (len(shown) - 1)

    good = [cut(at, column.good) for at, column in enumerate(columns)]
    while drop and needed(good) > room and any(columns[at].rank for at in shown):
        shown.remove(max(shown, key=lambda at: (columns[at].rank, at)))
    if needed(good) > room:
        good = [cut(at, column.least) for at, column in enumerate(columns)]
    spare = room - needed(good)
    found = []
    for at in shown:  # the first ones get what there is
        more = min(widths[at] - good[at], max(0, spare))
        spare -= more
        found.append(good[at] + more)
    return shown, found


def lines(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], room: int | None = None, *, drop: bool = True
) -> Iterator[str]:
    """Yield the lines of a table, its head first.

    Args:
        columns: what is shown. cells: of each column, its cells, as many in each.
        room: how many places a line may take; None for any number.
        drop: whether columns may be left out for that.
    """
    shown = list(range(len(columns)))
    widths = [
        max(len(column.title), len(max(column_cells, key=len, default="")))
        if all(map(str.isascii, column_cells))
        else max(len(column.title), *map(width_of, column_cells))
        for column, column_cells in zip(columns, cells, strict=True)
    ]
    cut = widths
    if room is not None:
        shown, cut = _fitted(columns, widths, room, drop)
    ellipsis = "…" if (sys.stdout.encoding or "").lower().startswith("utf") else "~"
    laid = [
        _laid(columns[at], cells[at], width, width < widths[at], ellipsis) for at, width in zip(shown, cut, strict=True)
    ]
    for row in zip(*laid, strict=True):
        yield _GAP.join(row).rstrip()


def _laid(column: Column, cells: Sequence[str], width: int, is_cut: bool, ellipsis: str) -> list[str]:
    texts = [column.title, *cells]
    if is_cut:
        texts = [clip(text, width, ellipsis, only_head=column.head) for text in texts]
    if all(map(str.isascii, texts)):
        return [text.rjust(width) for text in texts] if column.right else [text.ljust(width) for text in texts]
    pads = [" " * (width - width_of(text)) for text in texts]
    pairs = zip(texts, pads, strict=True)
    return [pad + text if column.right else text + pad for text, pad in pairs]
