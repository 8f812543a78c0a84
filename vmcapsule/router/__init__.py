"""The JobRouter's hooks: a source ad becomes a routed ad, and later gets its exit status.

May import ``slot``, ``capsule`` and below.  Begin with `translate` and `finalize`;
`route` says what a kind of routed job is.
"""
