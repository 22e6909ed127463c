"""The source package: all that is tracked and nothing that is generated, whoever builds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "sdist.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOOL.exists(), reason="not run from the source tree"),
]


def _sdist(tree: Path, folder: Path) -> tuple[int, Path, list[str]]:
    """Build and compare: status, the package, what differs."""
    done = subprocess.run(
        [sys.executable, str(TOOL), str(tree), str(folder)], capture_output=True, text=True, timeout=100, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    differs = [line.partition(": ")[2] for line in done.stderr.splitlines() if line.startswith("wdkmutex_shm-")]
    return done.returncode, Path(done.stdout.strip()), differs


def test_the_source_package_is_the_tree(tmp_path: Path) -> None:
    status, package, differs = _sdist(ROOT, tmp_path / "first")
    assert (status, differs) == (0, [])
    with tarfile.open(package) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        assert {
            "wdkmutex_shm/core/lock.pxi",
            "CHANGELOG.md",
            "tests/helpers/support.py",
            "tools/test",
            ".ci/run",
        } <= names
        assert "wdkmutex_shm/core/_core.c" not in names
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(tmp_path)
    (unpacked,) = tmp_path.glob("wdkmutex_shm-*")
    for tool in ("demo", "test", "_env.sh"):
        assert os.access(unpacked / "tools" / tool, os.X_OK) == (tool != "_env.sh")

    # Whoever unpacks it, works there and packs it again gets the same.
    made = [
        "wdkmutex_shm/core/_core.c",
        "wdkmutex_shm/core/_core.so",
        "build/x",
        "docs/_build/index.html",
        "docs/_build/y.js",
    ]
    made += [".venv-3.12/x", "tests/__pycache__/y.pyc", ".coverage.1"]
    for generated in made:
        (unpacked / generated).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / generated).touch()
    assert _sdist(unpacked, tmp_path / "second") == (0, tmp_path / "second" / package.name, [])


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "build", "docs", "tests", "*.so", "*.c"))
    shutil.copy(ROOT / ".gitignore", tree)
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    (tree / "MANIFEST.in").write_text(manifest.replace("graft tools\n", "").replace("*.c", "*.no"), encoding="utf-8")
    (tree / "forgotten.txt").touch()
    status, _, differs = _sdist(tree, tmp_path)
    assert status == 1
    assert {"missing: forgotten.txt", "missing: tools/test"} <= set(differs)
