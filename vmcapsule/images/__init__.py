"""Building what capsules are made from: the template VM and the HTCondor tarball.

May import ``template``, ``vm`` and ``disk``.  Begin with `template_build`.
"""
