"""The command line: what was asked for, what is printed, with which status it ends.

May import everything.  Begin with `cli`; nothing imports this package.
"""
