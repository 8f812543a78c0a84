"""What a starter says of the slot and the job, as a program that runs there finds it.

No ClassAd library is there, and none is needed: of the starter's files ``.machine.ad`` and
``.job.ad`` only plain literals are looked at, and anything else counts as not said.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, Optional

from vmcapsule.named import NamedTuple

#: How all names begin that we put into a job's ad by chirp, in lower case.
OURS_BY_CHIRP = "chirpvmcapsule"
#: What a slot's program tells the job's ad of a run whose guest did not report: how
#: many there were, which of the job's completions this one is, why, and until when
#: (seconds since the epoch) other machines are tried first.
UNREPORTED = "ChirpVmCapsuleUnreported"
UNREPORTED_RUN = "ChirpVmCapsuleRun"
UNREPORTED_REASON = "ChirpVmCapsuleReason"
AVOID_UNTIL = "ChirpVmCapsuleUntil"
#: How long that is: for a few rounds of negotiation.
AVOID_S = 120
#: Which of the job's completions was a death by SIGKILL in the guest, and not of what ran it.
KILLED_RUN = "ChirpVmCapsuleKilledRun"
#: With which reason, code and subcode the job is to be held, whatever its ``OnExitHold`` says:
#: the UPDATE_JOB_INFO hook does that.
HOLD_REASON = "ChirpVmCapsuleHoldReason"
HOLD_CODE = "ChirpVmCapsuleHoldReasonCode"
HOLD_SUBCODE = "ChirpVmCapsuleHoldReasonSubCode"
#: What a routed job used that was packed in its slot, as its guest says: seconds, KiB, 0 or 1.
USED_USER_CPU = "ChirpVmCapsuleUserCpu"
USED_SYSTEM_CPU = "ChirpVmCapsuleSysCpu"
USED_RESIDENT_KIB = "ChirpVmCapsuleResidentSetSize"
USED_IMAGE_KIB = "ChirpVmCapsuleImageSize"
USED_DISK_KIB = "ChirpVmCapsuleDiskUsage"
CORE_DUMPED = "ChirpVmCapsuleCoreDumped"
#: What kept the guest of a job that was packed in its slot from its machine: "kvm" or "tcg".
ISOLATION = "ChirpVmCapsuleIsolation"
#: What `vmcapsule.slot.probe` tells the machine's ad.
HAS_VM_CAPSULE = "HasVMCapsule"
QEMU_VERSION = "VMCapsuleQEMUVersion"
KVM_WORKS = "VMCapsuleKVM"
NETWORK_WORKS = "VMCapsuleNetwork"
REASON = "VMCapsuleReason"
#: Where the program itself is there.
PROGRAM_PATH = "VMCapsuleProgram"
#: What `vmcapsule.slot.templates` does: the templates that it has, by their likeness, where
#: they are, and what is wrong with others.
TEMPLATES = "VMCapsuleTemplates"
TEMPLATE_PATHS = "VMCapsuleTemplatePaths"
TEMPLATE_REASON = "VMCapsuleTemplateReason"
#: What our vm-gahp tells the machine's ad: what runs its machines, beginning with one word.
HYPERVISOR = "VMCapsuleHypervisor"
BY_QEMU, BY_VMWARE = "qemu", "vmware"

#: A machine ad has some 20 KB; one with more than this is not read.
_AD_BYTES_MAX = 4 << 20


class Slot(NamedTuple):
    """The slot that this process runs in; by hand, outside of any, nothing is said."""

    #: Whether KVM was seen to work, for the user who runs HTCondor's daemons.
    kvm: Optional[bool] = None
    machine: Optional[str] = None
    #: How often this job's guest did not report, as far as was told.
    unreported: int = 0
    #: How often the job has ended, for whatever reason.
    completions: int = 0
    #: How many of its runs began before this one.
    starts: int = 0
    chirp: Path = Path(".chirp.config")


def read_slot(here: Path, environment: Mapping[str, str]) -> Slot:
    """Read what the starter left; ``here`` is the job's scratch folder."""
    machine = ad_text(here, environment, ".machine.ad")
    job = ad_text(here, environment, ".job.ad")
    return Slot(
        kvm={"true": True, "false": False}.get((_literal(machine, KVM_WORKS) or "").lower()),
        machine=_string(machine, "Machine"),
        unreported=_count(job, UNREPORTED),
        completions=_count(job, "NumJobCompletions"),
        starts=_count(job, "NumJobStarts"),
        chirp=chirp_config(here, environment),
    )


def chirp_config(here: Path, environment: Mapping[str, str]) -> Path:
    """Where the starter says how it is told of attributes."""
    return Path(environment.get("_CONDOR_CHIRP_CONFIG") or here / ".chirp.config")


def ad_text(here: Path, environment: Mapping[str, str], name: str) -> str:
    """The text of an ad that the starter left, ``.job.ad`` or ``.machine.ad``; "" for none."""
    variable = {".job.ad": "_CONDOR_JOB_AD", ".machine.ad": "_CONDOR_MACHINE_AD"}[name]
    return _text(Path(environment.get(variable) or here / name))


def number(ad: str, name: str) -> int:
    """A literal number in an ad, rounded down; 0 where there is none."""
    text = _literal(ad, name) or ""
    return int(float(text)) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]*)?", text, re.ASCII) else 0


def is_true(ad: str, name: str) -> bool:
    """Is an attribute the literal true?"""
    return (_literal(ad, name) or "").lower() == "true"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_AD_BYTES_MAX + 1)
    except (OSError, ValueError):
        return ""
    return data.decode(errors="surrogateescape") if len(data) <= _AD_BYTES_MAX else ""


def _literal(ad: str, name: str) -> Optional[str]:
    """The text of an attribute that has a line of its own."""
    match = re.search(rf"^[ \t]*{name}[ \t]*=(.*)$", ad, re.I | re.M)
    return match.group(1).strip() if match else None


def _count(ad: str, name: str) -> int:
    text = _literal(ad, name) or ""
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) else 0


def _string(ad: str, name: str) -> Optional[str]:
    match = re.fullmatch(r'"([^"\\]{1,255})"', _literal(ad, name) or "")
    return match.group(1) if match else None
