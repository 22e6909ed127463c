"""The benchmark: this project and what users would pick instead, measured interleaved in one run.

Run it with ``./tools/bench``. :mod:`benchmark.rows` has the rows, :mod:`benchmark.peers` what they are compared with,
:mod:`benchmark.measure` the way of measuring.
"""
