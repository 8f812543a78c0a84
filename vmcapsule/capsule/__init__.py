"""The folder made for one job: made, locked, delivered from, removed.

May import ``guest`` and below.  Begin with `record`, `states` and `making`, then `packing`
and `delivery`.
"""
