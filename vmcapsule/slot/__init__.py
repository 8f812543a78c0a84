"""What runs on an execute point: the program that boots a capsule, and the machine's probe.

May import ``capsule`` and below.  Begin with `entry`, as its one file does.  Jobs are packed
where they run by `packed`; of jobs of the VM universe `gahp` runs the machines, or `libvirt`
says to HTCondor's own gahp, as root, what they are.
"""
