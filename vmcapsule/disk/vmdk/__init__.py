"""The forms of a vmdk disk: read where it lies, written flat or sparse.

Begin with `vmdk`.
"""
