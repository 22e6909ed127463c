"""The architecture page names files that exist, and each of its walks meets a file once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/explanation/architecture.md").read_text()
FOLDERS = ("wdkmutex_shm", "daemon", "tools", "tests", "docs")
SUFFIXES = "py|pyx|pxi|pyi|h|pml|md"


def _walks() -> dict[str, list[str]]:
    section = PAGE.split("## Three walks through the code\n")[1].split("\n## ")[0]
    return {
        title: re.findall(r"^\| `([^`]+)` \|", body, re.MULTILINE)
        for title, body in re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", section, re.DOTALL | re.MULTILINE)
    }


def test_every_path_exists() -> None:
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", PAGE)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_file_name_exists() -> None:
    ignored = {".git", ".venv", "build", "__pycache__"}
    found = [path for path in ROOT.rglob("*") if not ignored & set(path.relative_to(ROOT).parts)]
    known = {"/" + str(path.relative_to(ROOT)) for path in found}
    names = re.findall(rf"`([\w/-]+\.(?:{SUFFIXES}))`", PAGE)
    assert [name for name in names if not any(path.endswith("/" + name) for path in known)] == []


@pytest.mark.parametrize("title", _walks())
def test_a_walk_meets_each_file_once(title: str) -> None:
    files = _walks()[title]
    assert len(files) > 3
    assert len(set(files)) == len(files)
    assert all((ROOT / file).is_file() for file in files)


def test_there_are_three_walks() -> None:
    assert len(_walks()) == 3
