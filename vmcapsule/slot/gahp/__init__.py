"""HTCondor's VM universe, served: a vm-gahp of our own, for VMware and KVM jobs anywhere.

HTCondor has dropped its VMware gahp, not what calls it.  Begin with `modes`; a conversation
with a starter is `serve`'s, what is answered in it `dialogue`'s, and the machine's process
`child`'s.  That is `machine`: it has a capsule `run`, and a `return_disk` made.
"""
