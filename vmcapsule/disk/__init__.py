"""A disk as bytes: which file holds which of them, its partitions, the file system in it.

May import the top of the package.  Begin with `extents` (bytes of a disk in files) and
`content` (which of them say anything); `fat` and `vmdk` are the two formats.
"""
