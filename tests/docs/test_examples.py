"""Every example of the README and of every page of the manual, run as a newcomer would run it."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import wdkmutex_shm

ROOT = Path(__file__).parents[2]
COMMAND = shutil.which("wdkmutex-daemon", path=os.path.dirname(sys.executable))
# An example that needs more than a Python beside it says which test runs it.
RUN_ELSEWHERE = re.compile(r"<!-- run by (tests/[\w/]+\.py) -->\n+\Z")


class Example(NamedTuple):
    page: str
    line: int
    language: str
    code: str
    run_by: str | None


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[Example]:
    found = []
    for page in pages():
        text = page.read_text()
        for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            elsewhere = RUN_ELSEWHERE.search(text[: block.start()])
            line = text.count("\n", 0, block.start()) + 1
            run_by = elsewhere[1] if elsewhere else None
            found.append(Example(str(page.relative_to(ROOT)), line, block[1], block[2], run_by))
    return found


EXAMPLES = examples()
PYTHON = [one for one in EXAMPLES if one.language == "python" and one.run_by is None]
SHELL = [one for one in EXAMPLES if one.language == "sh" and "wdkmutex-daemon" in one.code and one.run_by is None]


def name_of(example: Example) -> str:
    return f"{example.page}:{example.line}"


@pytest.fixture
def environment(instance: str) -> dict[str, str]:
    return {**os.environ, "WDKMUTEX_INSTANCE": instance, "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("example", PYTHON, ids=name_of)
def test_python_example(example: Example, tmp_path: Path, environment: dict[str, str]) -> None:
    for needed in re.findall(r"^(?:from|import) (\w+)", example.code, re.MULTILINE):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    script = tmp_path / "example.py"
    script.write_text(example.code)
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(COMMAND is None, reason="wdkmutex-daemon is not installed beside this Python")
@pytest.mark.parametrize("example", SHELL, ids=name_of)
def test_shell_example(example: Example, tmp_path: Path, environment: dict[str, str]) -> None:
    assert COMMAND is not None
    backup = tmp_path / "backup.sh"
    backup.write_text("#!/bin/sh\nwdkmutex-daemon show nightly --json\n")
    backup.chmod(0o755)
    environment["PATH"] = os.path.dirname(COMMAND) + os.pathsep + environment["PATH"]
    code = re.sub(r"^export WDKMUTEX_INSTANCE=\w+", "true", example.code)
    done = subprocess.run(
        ["sh", "-exc", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "backup.sh" in code:
        assert re.search(r'"state":\s*"held"', done.stdout), "backup.sh runs while the section is held"


def test_what_is_run_elsewhere_is_run_there() -> None:
    for example in EXAMPLES:
        if example.run_by is not None:
            test = ROOT / example.run_by
            assert test.exists(), f"{name_of(example)} names {example.run_by}"
            assert Path(example.page).name in test.read_text(), f"{example.run_by} does not read {example.page}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)$", reference, re.MULTILINE))
    missing = sorted(name for name in wdkmutex_shm.__all__ if name not in documented)
    assert not missing, f"docs/reference does not have {missing}"


def test_links_lead_somewhere() -> None:
    for page in pages():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text()):
            if not re.match(r"\w+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_readme_is_one_page() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 200
