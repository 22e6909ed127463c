"""Tables: aligned, fitted to a terminal, cut in the middle."""

from __future__ import annotations

import pytest
from wdkmutex_daemon.cli.tables import Column, clip, lines, width_of

COLUMNS = [
    Column("name", good=16, least=6),
    Column("kind", rank=1),
    Column("number", right=True),
    Column("last", rank=2),
]
CELLS = [["orders:eu-west:1", "b"], ["fast", "k"], ["1", "22222222"], ["x", "y"]]


@pytest.mark.parametrize(("text", "width"), [("", 0), ("abc", 3), ("é", 1), ("e\u0301", 1), ("鎖", 2), ("a鎖b", 4)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("abc", 3, "abc"),
        ("abcdefgh", 5, "ab…gh"),
        ("abcdefgh", 4, "ab…h"),
        ("abcdefgh", 1, "…"),
        ("abcdefgh", 0, ""),
        ("鎖鎖鎖鎖", 5, "鎖…鎖"),
        ("鎖鎖鎖鎖", 4, "鎖…"),
    ],
)
def test_the_middle_is_left_out(text: str, width: int, cut: str) -> None:
    assert clip(text, width) == cut
    assert width_of(cut) <= width


def test_the_end_is_left_out_where_the_head_tells_most() -> None:
    assert clip("worker.py --fast", 10, only_head=True) == "worker.py…"


def test_without_a_limit_everything_is_shown() -> None:
    assert list(lines(COLUMNS, CELLS)) == [
        "name              kind    number  last",
        "orders:eu-west:1  fast         1  x",
        "b                 k     22222222  y",
    ]


def test_what_does_not_fit_is_left_out_by_rank_and_then_cut() -> None:
    assert list(lines(COLUMNS, CELLS, 32)) == [
        "name              kind    number",
        "orders:eu-west:1  fast         1",
        "b                 k     22222222",
    ]
    cut = list(lines(COLUMNS, CELLS, 22))
    assert cut[0] == "name            number"
    assert clip(CELLS[0][0], 12, "?") == "orders?est:1"
    assert (cut[1][:6], cut[1][7:]) == ("orders", "est:1         1")
    assert next(lines(COLUMNS, CELLS, 16)) == "name      number"
    assert next(lines(COLUMNS, CELLS, 3)) == "name      number"


def test_columns_that_were_asked_for_are_never_left_out() -> None:
    assert next(lines(COLUMNS, CELLS, 3, drop=False)) == "name    kind    number  last"


def test_wide_characters_are_aligned() -> None:
    made = list(lines([Column("n"), Column("r", right=True)], [["鎖", "abc"], ["é", "x"]]))
    assert made == ["n    r", "鎖   é", "abc  x"]


def test_no_rows() -> None:
    assert list(lines(COLUMNS, [[], [], [], []])) == ["name  kind  number  last"]
