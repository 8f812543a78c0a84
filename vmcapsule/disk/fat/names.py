"""Short (8.3) and long names of files on a FAT volume.

Source: Microsoft's FAT specification (fatgen103), "Long Directory Entries".
"""

from __future__ import annotations

from codecs import utf_16_le_decode, utf_16_le_encode
from typing import Dict, List, Optional, Set, Tuple

from vmcapsule.errors import DiskError

SLOT_BYTES = 32
LONG_NAME_CHARS_MAX = 255
ATTR_LONG_NAME = 0x0F

_SHORT_NAME_CHARS_MAX = 12
_CHARS_IN_SLOT = 13
_LAST = 0x40
_LOWER_BASE, _LOWER_EXTENSION = 0x08, 0x10
_FORBIDDEN = frozenset('"*/:<>?\\|') | frozenset(map(chr, range(32))) | {"\x7f"}
_ROTATED = bytes((value >> 1) + ((value & 1) << 7) for value in range(256))
_ASCII_UPPER = str.maketrans({char: char.upper() for char in "abcdefghijklmnopqrstuvwxyz"})
_SHORT_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~")


def fold(name: str) -> str:
    """Return ``name`` as vfat compares it: without regard to case, letter by letter."""
    folded = name.upper() if name.isascii() else "".join(map(_fold_char, name))
    return name if folded == name else folded  # one string: a folder may have 65,536


def _fold_char(char: str) -> str:
    upper = char.upper()
    # Neither "SS" for a sharp s, nor an ASCII letter for one that is not.
    return upper if len(upper) == 1 and upper.isascii() == char.isascii() else char


def check_name(name: str) -> None:
    """Raise `DiskError` unless vfat can hold a file of this name, unchanged."""
    reason = ""
    units = _units(name)
    if name in ("", ".", "..") or name[-1] in " .":
        reason = "it is empty or ends in a dot or a space"
    elif not _FORBIDDEN.isdisjoint(name):
        reason = "it has a character that vfat does not allow"
    elif units == 0:
        reason = "it is not UTF-8"
    elif units > LONG_NAME_CHARS_MAX:
        reason = f"it has more than {LONG_NAME_CHARS_MAX} characters"
    if reason:
        raise DiskError(f"vfat cannot hold a file named {name[:300]!r}: {reason}")


def is_safe(name: str) -> bool:
    """Tell whether a name found on a disk is one part of a path and can be printed."""
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and (name.isascii() and name.isprintable() or min(name) >= " " and "\x7f" not in name)
    )


def oem_text(raw: bytes) -> str:
    """Return bytes in code page 437 as text; mostly they need no more than ASCII."""
    return raw.decode("ascii" if raw.isascii() else "cp437")


def oem_bytes(text: str) -> bytes:
    """Return text in code page 437, a question mark for what is not in it."""
    return text.encode("ascii" if text.isascii() else "cp437", errors="replace")


def short_to_text(short: bytes, case_flags: int) -> str:
    """Return the 11 bytes of a short name as text: ``README.TXT``, in code page 437.

    ``case_flags`` is byte 12 of the entry, where Windows and Linux say that the base or
    the extension is all lower case.
    """
    if short[0] == 0x05:  # stands for 0xE5, which would mark a deleted entry
        short = b"\xe5" + short[1:]
    text = oem_text(short)
    base, extension = text[:8].rstrip(" "), text[8:].rstrip(" ")
    if case_flags & _LOWER_BASE:
        base = base.lower()
    if case_flags & _LOWER_EXTENSION:
        extension = extension.lower()
    return f"{base}.{extension}" if extension else base


def checksum(short: bytes) -> int:
    """Return the sum that binds long-name slots to their short entry."""
    total = 0
    for byte in short:
        total = _ROTATED[total] + byte & 0xFF
    return total


def long_slots(name: str, short: bytes) -> bytes:
    """Return the slots of a long name, in the order in which they precede the entry."""
    raw, _ = utf_16_le_encode(name)
    in_slot = 2 * _CHARS_IN_SLOT
    count = -(-len(raw) // in_slot)
    if len(raw) % in_slot:
        raw += b"\0\0"
    raw = raw.ljust(count * in_slot, b"\xff")
    total = checksum(short)
    slots = []
    for index in range(count, 0, -1):
        part = raw[(index - 1) * in_slot : index * in_slot]
        order = index | (_LAST if index == count else 0)
        head = bytes([order]) + part[:10] + bytes([ATTR_LONG_NAME, 0, total])
        slots.append(head + part[10:22] + b"\0\0" + part[22:])
    return b"".join(slots)


class LongNameReader:
    """Collects the long-name slots that precede a short entry."""

    def __init__(self) -> None:
        self._parts: List[bytes] = []
        self._expected = 0
        self._sum = 0

    @property
    def slot_count(self) -> int:
        """The number of slots collected so far."""
        return len(self._parts)

    def clear(self) -> None:
        """Forget what was collected: a slot that has nothing to do with it came."""
        self._parts = []
        self._expected = 0

    def add(self, slot: bytes) -> None:
        """Take the next slot; one out of order starts afresh or is forgotten."""
        order = slot[0]
        if order & _LAST:
            self._parts = []
            self._expected = order & 0x3F
            self._sum = slot[13]
        if order & 0x3F != self._expected or self._expected == 0 or slot[13] != self._sum:
            self.clear()
            return
        self._parts.append(slot[1:11] + slot[14:26] + slot[28:32])
        self._expected -= 1

    def take(self, short: bytes) -> Optional[str]:
        """Return the name that belongs to this short entry, or None.

        None also where it is not valid UTF-16 or not safe (`is_safe`): the short name
        is then the file's only one.
        """
        parts, complete = self._parts, self._expected == 0
        self._parts, self._expected = [], 0
        if not parts or not complete or self._sum != checksum(short):
            return None
        raw = b"".join(reversed(parts)) if len(parts) > 1 else parts[0]
        # What is behind the name's end need not be UTF-16.
        text, _ = utf_16_le_decode(raw, "surrogatepass", True)
        name = text.partition("\0")[0]
        if not is_safe(name):
            return None
        return name if 0 < _units(name) <= LONG_NAME_CHARS_MAX else None


class ShortNames:
    """The short names taken in one folder, and new ones for long names."""

    def __init__(self, taken: Set[bytes]) -> None:
        self._taken = taken
        self._next_number: Dict[Tuple[bytes, bytes, int], int] = {}

    def reserve(self, name: str) -> None:
        """Keep for ``name`` the short name that says all of it, where there is one.

        Else it could become that of a file made before, and two files answered to it.
        """
        if len(name) > _SHORT_NAME_CHARS_MAX:
            return
        base, extension, exact = _basis(name)
        if exact:
            self._taken.add(base.ljust(8) + extension.ljust(3))

    def make(self, name: str) -> bytes:
        """Return the reserved short name (11 bytes) of ``name``, or take a free one."""
        base, extension, exact = _basis(name)
        if exact:
            return base.ljust(8) + extension.ljust(3)
        return self._numbered(base, extension)

    def _numbered(self, base: bytes, extension: bytes) -> bytes:
        for digits in range(1, 7):
            stem = base[: 7 - digits]
            # What begins alike shares its numbers: none is tried twice.
            key = (stem, extension, digits)
            least = 10 ** (digits - 1)
            for number in range(self._next_number.get(key, least), 10 * least):
                short = (stem + b"~%d" % number).ljust(8) + extension.ljust(3)
                if short not in self._taken:
                    self._next_number[key] = number + 1
                    self._taken.add(short)
                    return short
            self._next_number[key] = 10 * least
        raise DiskError(f"no short name is left for files like {base.decode()!r}")


def _units(name: str) -> int:
    """How many 16-bit units a name has; 0 where it is not valid UTF-16."""
    if name.isascii():
        return len(name)
    try:
        return len(utf_16_le_encode(name)[0]) // 2
    except UnicodeEncodeError:
        return 0


def slots_for(name: str) -> int:
    """How many slots the entry of a file of this name takes."""
    if is_short(name):
        return 1
    return 1 + -(-_units(name) // _CHARS_IN_SLOT)


def is_short(name: str) -> bool:
    """Tell whether a name is its own short name, so that it needs no long one."""
    if len(name) > _SHORT_NAME_CHARS_MAX or name != name.upper():
        return False
    base, extension, exact = _basis(name)
    return exact and name == short_to_text(base.ljust(8) + extension.ljust(3), 0)


def _basis(name: str) -> Tuple[bytes, bytes, bool]:
    """Return base and extension for a short name, and whether they say all of it."""
    upper = name.upper() if name.isascii() else name.translate(_ASCII_UPPER)
    plain = upper.replace(" ", "").lstrip(".")
    stem, dot, extension = plain.rpartition(".")
    if not dot:
        stem, extension = plain, ""
    exact = plain == upper and 0 < len(stem) <= 8 and len(extension) <= 3
    exact = exact and _SHORT_CHARS.issuperset(stem) and _SHORT_CHARS.issuperset(extension)
    return _oem(stem.replace(".", ""), 8) or b"_", _oem(extension, 3), exact


def _oem(text: str, length: int) -> bytes:
    if not _SHORT_CHARS.issuperset(text):
        text = "".join(c if c in _SHORT_CHARS else "_" for c in text)
    return text[:length].encode("ascii")
