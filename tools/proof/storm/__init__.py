"""The crash storm: workers that are killed, stopped and interrupted while they keep books in shared mutexes.

``setup`` is what they share, ``actor`` what an operation may ask of a worker; ``operations``, ``bank`` and ``types``
are what only the storm does, ``table`` how likely that and the catalogue's operations are; ``worker`` does them.
"""
