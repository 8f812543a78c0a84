"""A virtual machine is started and watched; it knows no job and no capsule.

May import the top of the package.  Begin with `boot`.
"""
