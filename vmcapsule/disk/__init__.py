"""A disk as bytes: vmdk descriptors and extents, the partition table, a FAT volume."""
