"""What runs on an execute point: the program that boots a capsule, and the machine's probe.

May import ``capsule`` and below.  Begin with `execute`; `entry` is where the shipped file
starts, `libvirt` what root's part in jobs of the VM universe is.
"""
