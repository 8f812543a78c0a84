"""A job packed where it runs: a starter has set it up in its slot, and a machine runs it.

Begin with `run`, which is the whole way: `found` says what the starter left, `carry` makes a
capsule of it, and `put_back` brings the sandbox to what the job has made of it.
"""
