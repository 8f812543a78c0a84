"""Building what capsules are made from: the template VM and the HTCondor tarball."""
