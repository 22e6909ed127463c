"""What a process runs, told from its command line."""

from __future__ import annotations

import pytest

from wdkmutex_shm.observe.programs import program_of


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("/usr/bin/python3 -u /srv/app/worker.py --fast", "worker.py --fast"),
        ("python3.13 -X dev -W error -bb worker.py", "worker.py"),
        ("/opt/venv/bin/python3.14t -m gunicorn app:app", "gunicorn app:app"),
        ("python -c print(1) x", "python -c print(1) x"),
        ("/usr/bin/python3", "python3"),
        ("/usr/bin/python3 -i", "python3"),
        ("/usr/bin/python3 -", "-"),
        ("/v/bin/python /v/bin/wdkmutex-daemon lock a -- cat", "wdkmutex-daemon lock a -- cat"),
        ("python -c from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5)", "multiprocessing spawn"),
        ("python -c from multiprocessing.forkserver import main; main(7)", "multiprocessing forkserver"),
        ("/bin/bash /etc/cron.daily/backup.sh --all", "backup.sh --all"),
        ("/bin/sh -c sleep 1", "sh -c sleep 1"),
        ("/usr/sbin/nginx -g daemon", "nginx -g daemon"),
        ("gunicorn: worker [app]", "gunicorn: worker [app]"),
        ("?", "?"),
        ("", ""),
        ("/", "/"),
    ],
)
def test_program_of(command: str, program: str) -> None:
    assert program_of(command) == program
