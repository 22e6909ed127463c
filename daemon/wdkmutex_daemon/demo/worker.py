"""A worker process of the demo. It may be killed at any instruction, and nothing here makes provisions for that.

Light imports only: this is what a replacement waits for.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

from wdkmutex_shm import Grt

from .counting import count_task
from .state import Job

__all__ = ["work"]

#: Seconds between two looks for a task when all that is left is in the hands of others.
IDLE = 0.01


def work(instance: str, worker: int, parent: int, orders: Connection) -> None:
    """Claim, count and record tasks until told to stop.

    Args:
        instance: instance of the Grt that holds the job.
        worker: number of this worker, never used twice in a job.
        parent: pid of the process that runs the job; the worker ends when it does.
        orders: the parent sends the go over it, and closes it to make the worker stop.
    """
    Grt.init(instance, autostart=False)
    job = Job.find()
    tasks = job.tasks()
    try:
        orders.recv_bytes()
        finished: int | None = None
        while os.getppid() == parent:
            finished = job.claim(worker, len(tasks), finished)
            if finished is not None:
                job.record(finished, count_task(tasks[finished]))
            elif orders.poll(IDLE):
                orders.recv_bytes()  # the end of the file: no more orders
    except EOFError:
        pass
    Grt.detach()
