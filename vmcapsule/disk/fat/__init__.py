"""A FAT file system in a disk's image, read and written in bulk.

Begin with `volume`; `tree` lays out everything that is to be written before anything is.
"""
