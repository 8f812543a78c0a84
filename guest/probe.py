#!/usr/bin/env python3
"""Tells what a template's machine is like: put in place of the init script, once.

Writes ``vmcapsule/probe.json`` beside itself on the data disk and powers the machine off.
Stands alone: standard library only, Python 3.6 and newer.

The record (JSON): format 1; python, kernel, glibc (strings); uid (this script's);
condor_user (bool); mount_point, device, fs_type, mount_options of the data disk;
writable_by_all (bool: could a process of user 'nobody' write there?); condor (string: the
versions of HTCondor that are there as /condor-VERSION, blanks between); memory_kib;
cpus; free_root_bytes; seconds_up.
"""

import ctypes
import json
import os
import platform
import pwd
import subprocess
import sys
import traceback
from typing import Dict, Tuple, Union

FORMAT = 1
RECORD_DIR = "vmcapsule"
RECORD = "probe.json"
NOBODY = 65534
#: reboot(2): LINUX_REBOOT_CMD_POWER_OFF
POWER_OFF = 0x4321FEDC


def mount_of(folder: str) -> Tuple[str, str, str, str]:
    """Return (device, mount point, type, options) of the file system ``folder`` is on."""
    best = ("", "", "", "")
    with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            device, where, kind, options = line.split(" ")[:4]
            # Blanks in names are written as octal escapes.
            where = where.replace("\\040", " ").replace("\\011", "\t")
            inside = folder == where or folder.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best[1]):
                best = (device, where, kind, options)
    return best


def writable_by_all(folder: str) -> bool:
    """Try to write as user 'nobody', in a process of its own."""
    if os.getuid() != 0:
        return os.access(folder, os.W_OK)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            path = os.path.join(folder, "probe.tmp")
            with open(path, "w") as file:
                file.write("x")
            os.unlink(path)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def condor_versions() -> str:
    found = (name for name in sorted(os.listdir("/")) if name.startswith("condor-"))
    return " ".join(
        name[len("condor-") :]
        for name in found
        if os.path.isfile(os.path.join("/", name, "sbin/condor_master"))
    )


def memory_kib() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1])
    return 0


def look(folder: str) -> Dict[str, Union[str, int, float]]:
    """Return the record for the data disk's ``folder``."""
    device, where, kind, options = mount_of(folder)
    root = os.statvfs("/")
    with open("/proc/uptime") as file:
        seconds_up = float(file.read().split()[0])
    return {
        "format": FORMAT,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "glibc": platform.libc_ver()[1],
        "uid": os.getuid(),
        "condor_user": has_user("condor"),
        "mount_point": where,
        "device": device,
        "fs_type": kind,
        "mount_options": options,
        "writable_by_all": writable_by_all(folder),
        "condor": condor_versions(),
        "memory_kib": memory_kib(),
        "cpus": os.cpu_count() or 1,
        "free_root_bytes": root.f_bavail * root.f_frsize,
        "seconds_up": seconds_up,
    }


def write(folder: str, record: Dict[str, Union[str, int, float]]) -> None:
    """Write the record under another name first: what is there is whole."""
    target = os.path.join(folder, RECORD_DIR)
    if not os.path.isdir(target):
        os.mkdir(target)
    part = os.path.join(target, RECORD + ".part")
    with open(part, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, os.path.join(target, RECORD))


def power_off(mount_point: str) -> None:
    """Leave the disk clean and switch the machine off, as the init script has to."""
    os.chdir("/")
    os.sync()
    if os.getuid() != 0:
        print("vmcapsule: the init script is not run by root and cannot power off")
        return
    for command in (["umount", mount_point], ["mount", "-o", "remount,ro", mount_point]):
        if mount_point not in ("", "/") and subprocess.call(command) == 0:
            break
    os.sync()
    sys.stdout.flush()
    ctypes.CDLL(None, use_errno=True).reboot(POWER_OFF)


def main() -> None:
    folder = os.path.dirname(os.path.realpath(__file__))
    mount_point = mount_of(folder)[1]
    try:
        write(folder, look(folder))
    except Exception:  # whatever it is, the machine must be switched off
        traceback.print_exc()
    power_off(mount_point)


if __name__ == "__main__":
    main()
