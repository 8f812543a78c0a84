"""One job on one machine, in one capsule, from a submit file to its exit code.

May import ``capsule``, ``images`` and below.  Begin with `run`.
"""
