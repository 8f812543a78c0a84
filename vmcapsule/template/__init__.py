"""What capsules are copied from: the template VM, and the HTCondor that runs in it.

May import ``disk``.  Begin with `template`.
"""
