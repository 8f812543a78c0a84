"""The host's side of what host and guest agree on: everything on the data disk.

May import ``transfer``, ``template`` and below; the formats are in `vmcapsule.contract`.
Begin with `bundle` (what a job's payload is) and `extract` (what came back).
"""
