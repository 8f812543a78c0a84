#!/bin/sh
# The first process in a pool's namespaces, started by space.py as
#     unshare --mount --pid --net --ipc --uts --fork ... boot.sh RUN-FOLDER HOST-NAME
# It mounts the pool's root, enters it and becomes the pool's init.  Every mount lives in
# this mount namespace alone and goes when the last process in it does.
set -eu
cd "$1"
host=$2

# /proc is still the host's: this process's number and start time there, for those who
# will enter or end the pool.
read -r stat </proc/self/stat
echo "$stat" >init.stat

echo "$host" >/proc/sys/kernel/hostname

# Relative names: a comma or colon in the cache's path would be a separator here.
if ! mount -t overlay pool -o lowerdir=../../root,upperdir=upper,workdir=work mnt; then
    # Where the cache is itself on an overlay (a container): a copy, mounted on itself,
    # since a starter's mount namespace needs a root that is a mount point.
    echo 'no overlay here: copying the root instead'
    cp -a -n ../../root/. upper/
    mount --bind upper mnt
fi
cd mnt

mount -t proc proc proc
# No cgroups: they have no namespace here, and what HTCondor made would stay on the host.
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755,nosuid run run
mount -t tmpfs -o mode=755,nosuid dev dev
for node in null zero full random urandom tty kvm; do
    [ -e "/dev/$node" ] || continue
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm run/lock old
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

pivot_root . old
cd /
umount -l old
rmdir old
# Nothing of the caller's environment: a TMPDIR of the host's, say, is not in here.
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    chroot . /usr/bin/python3 -I /usr/local/sbin/pool-init
