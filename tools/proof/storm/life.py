"""The life of a worker's process: from its fork, over every Ctrl-C, to its end."""

from __future__ import annotations

import os
import random
import signal
import traceback
from typing import NoReturn

from .board import Log
from .setup import World
from .worker import Worker

INTERRUPTED = 3
"""Exit status of a worker that was interrupted where it could not go on."""


def run_worker(world: World, number: int, seed: int) -> NoReturn:
    """Be a worker, in a forked child, to the end of the process."""
    code = 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell in the background has made of it
    try:
        log = Log(world.folder, number)
        try:
            worker = Worker(world, number, log, random.Random(seed))
            while True:
                try:
                    worker.live()
                    break
                except KeyboardInterrupt:
                    world.board.count(number, "interrupts")
            worker.end()
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException as error:
            traceback.print_exc()
            log.broken("a worker goes on", error=error)
    finally:
        os._exit(code)
