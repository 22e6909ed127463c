"""Run as a script in a fresh interpreter: prints, as JSON, the bytes that it grew by when it used an instance.

Arguments: how many mutexes the instance ``WDKMUTEX_INSTANCE`` has, how many to use, how many handles to weigh.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder's modules are not to be found by their bare names


def resident() -> tuple[int, int]:
    """Resident bytes of this process, and how many of them are its own."""
    sizes = {}
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[-1] == "kB":
                sizes[words[0]] = int(words[1]) * 1024
    return sizes["Rss:"], sizes["Anonymous:"]


def main() -> None:
    """Measure and print."""
    count, used, weighed = (int(word) for word in sys.argv[1:])
    bare, _ = resident()
    from wdkmutex_shm import FastMutex, Grt

    imported, _ = resident()
    Grt.init(autostart=False)
    attached, own = resident()
    kept: list[FastMutex[int] | None] = [None] * used
    for number in range(used):
        mutex = Grt.get_fast_mutex(f"bench:{number * count // used}", int)
        mutex.fetch_add(1)
        kept[number] = mutex
    grown, own_grown = resident()

    import gc
    import json
    import tracemalloc

    names = [f"bench:{1 + number * (count - 1) // weighed}" for number in range(weighed)]
    handles: list[FastMutex[int] | None] = [None] * weighed
    for number in range(0, weighed, 50):  # so that all segments are mapped before the weighing
        Grt.get_fast_mutex(names[number], int)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number, name in enumerate(names):
        handles[number] = Grt.get_fast_mutex(name, int)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    result = {
        "imported": imported - bare,
        "attached": attached - imported,
        "growth": grown - attached,
        "private": own_grown - own,
        "handle": (after - before) / weighed,
        "size": sys.getsizeof(handles[0]),
    }
    print(json.dumps(result))
    Grt.detach()


if __name__ == "__main__":
    main()
