"""The shell tools: what they say when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import DEADLINE

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "_env.sh",
    "check",
    "core-debug",
    "core-matrix",
    "coverage",
    "cpython-tests",
    "demo",
    "docs",
    "package",
    "planted-build",
    "prove",
    "sanitize",
    "test",
    "valgrind",
)
TOOLS = [ROOT / "tools" / name for name in NAMES] + [ROOT / ".ci" / "run"]
NEEDED = [
    "bash",
    "cat",
    "cmp",
    "cut",
    "dirname",
    "env",
    "find",
    "flock",
    "grep",
    "head",
    "mktemp",
    "rm",
    "sed",
    "sh",
    "sha256sum",
    "sort",
    "tar",
    "touch",
    "xargs",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(path.exists() for path in TOOLS), reason="not run from the source tree"),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tools and the least of sources, with no environment made yet."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "tools", clone / "tools")
    (clone / "wdkmutex_shm").mkdir()
    (clone / "pyproject.toml").touch()
    return clone


@pytest.fixture
def path_without_compiler(tmp_path: Path) -> str:
    """A PATH that holds what the tools need, and no C compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return str(folder)


def _said(tool: Path, **environment: str) -> str:
    """Run a tool that must end with status 2 and one line, from another folder; return the line."""
    clean = {key: value for key, value in os.environ.items() if key not in ("CC", "PYTHON", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(tool)],
        cwd="/",
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{tool.name}: ")
    return done.stderr


@pytest.mark.parametrize("tool", ["demo", "test"])
def test_a_missing_compiler_is_one_line_that_says_what_to_install(
    tool: str, clone: Path, path_without_compiler: str
) -> None:
    said = _said(clone / "tools" / tool, PATH=path_without_compiler, PYTHON=sys.executable)
    assert "no C compiler" in said
    assert "apt install gcc" in said
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("tool", ["demo", "test"])
def test_missing_headers_are_one_line_too(tool: str, clone: Path) -> None:
    said = _said(clone / "tools" / tool, PYTHON=sys.executable, CC="false")
    assert "python3-dev" in said
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_a_python_of_any_version_is_found(version: str, clone: Path, path_without_compiler: str) -> None:
    (Path(path_without_compiler) / f"python{version}").symlink_to(sys.executable)
    assert "no C compiler" in _said(clone / "tools" / "test", PATH=path_without_compiler)


def test_no_python(clone: Path, path_without_compiler: str) -> None:
    assert "PYTHON=" in _said(clone / "tools" / "demo", PATH=path_without_compiler)
    assert "/bin/false" in _said(clone / "tools" / "demo", PYTHON="/bin/false")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_the_shell_can_read_them(tool: Path) -> None:
    subprocess.run(["bash", "-n", str(tool)], check=True, timeout=DEADLINE)
    assert os.access(tool, os.X_OK) == (tool.suffix != ".sh")
