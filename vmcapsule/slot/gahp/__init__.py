"""HTCondor's VM universe, served: a vm-gahp of our own, for VMware's jobs on any machine.

HTCondor has dropped its VMware gahp, not what calls it.  Begin with `modes`; a conversation
with a starter is `serve`'s, what is answered in it `dialogue`'s, and the machine `child`'s.
"""
