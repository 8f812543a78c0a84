"""The parts of ``condor-init.py``.

The host joins them into the one file that it puts onto a data disk (`vmcapsule.guest.script`):
a line ``from init.NAME import ...`` at the margin stands for that part, whole.  So all of
them share one set of names, and what is imported for types only is below ``if MYPY:``.

Python 3.6, the standard library only, and little of it: imports are slow in an emulated
machine.  Begin with `run`.
"""
