"""Which files go in and come out, under which names, packed and put in place how.

May import ``job`` and ``disk``.  Begin with `sandbox` (in) and `outputs` (out).
"""
