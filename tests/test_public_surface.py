"""What users depend on changes only on purpose."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import public_surface

FILE = Path(public_surface.__file__).with_suffix(".txt")


def test_the_public_surface_is_the_recorded_one() -> None:
    recorded, found = FILE.read_text().splitlines(), public_surface.surface()
    difference = "\n".join(difflib.unified_diff(recorded, found, "recorded", "found", n=0, lineterm=""))
    assert not difference, f"{difference}\n\n{public_surface.__doc__}"


def test_the_pattern_finds_the_structures() -> None:
    """Else a change of the layout would go unseen."""
    names = set(re.findall(r"^(?:slot|wait_board)\.h (\w+) ", FILE.read_text(), re.MULTILINE))
    assert names >= {"wdkm_slot", "wdkm_header", "wdkm_data_header", "wdkm_journal", "wdkm_wait", "wdkm_board"}
