"""The folder made for one job: made, locked, delivered from, removed.

May import ``guest`` and below.  Begin with `capsule`, then `packing` and `delivery`.
"""
