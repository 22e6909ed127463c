"""The numbers that Python takes for those of ``slot.h`` are those of ``slot.h``."""

from __future__ import annotations

import os
import re

import wdkmutex_shm
from wdkmutex_shm.base import layout, names

SLOT_H = os.path.join(os.path.dirname(wdkmutex_shm.__file__), "core", "slot.h")


def test_the_layout_is_that_of_the_header() -> None:
    with open(SLOT_H, encoding="utf-8") as file:
        text = file.read()
    defined = dict(re.findall(r"^#define WDKM_(\w+) (.+?)(?: +/\*.*)?$", text, re.MULTILINE))

    def number(name: str) -> int:
        (found,) = re.findall(r"0x[0-9a-f]+|\d+(?=u?\)?$)", defined[name].replace("UINT64_C(1) << ", ""))
        return int(found, 0)

    assert number("LAYOUT") == layout.LAYOUT
    assert number("HEADER") == layout.HEADER_BYTES
    assert number("DATA_HEADER") == layout.DATA_HEADER_BYTES
    assert number("JOURNAL_MAGIC") == layout.JOURNAL_MAGIC
    assert 1 << number("NOTE") == layout.NOTE
    assert (number("NOTE_COMMIT"), number("NOTE_PID")) == (layout.NOTE_COMMIT, layout.NOTE_PID)
    assert (number("INLINE"), number("NAME")) == (names.INLINE_BYTES, names.NAME_BYTES)
    assert f"_Static_assert(sizeof(wdkm_slot) == {layout.SLOT_BYTES}," in text
