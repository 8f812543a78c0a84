"""A source ad as a frozen `SourceJob`, or the reason why no capsule can honour it.

May import ``classad``.  Begin with `source`; `refusals` says what is not taken.
"""
