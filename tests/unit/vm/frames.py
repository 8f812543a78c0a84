"""Frames as a guest's card would send them, for whoever is at the other end to answer."""

from __future__ import annotations

import socket
import struct

#: Whatever the gateway's hardware address is, QEMU's user network takes what is sent.
_TO, _FROM = b"\x52\x55\x0a\x00\x02\x02", b"\x52\x54\x00\x12\x34\x56"
_TCP, _UDP = 6, 17


def arp() -> bytes:
    """Tell who we are, so that answers find us."""
    me, other = socket.inet_aton("10.0.2.15"), socket.inet_aton("10.0.2.2")
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + _FROM + me + bytes(6) + other
    return b"\xff" * 6 + _FROM + b"\x08\x06" + body


def syn(to: str, port: int, from_port: int) -> bytes:
    """The first packet of a TCP connection."""
    flags = 5 << 12 | 2
    return _frame(to, _TCP, struct.pack("!HHIIHHHH", from_port, port, 1, 0, flags, 65535, 0, 0))


def datagram(to: str, port: int, from_port: int, data: bytes) -> bytes:
    """A UDP packet."""
    head = struct.pack("!HHHH", from_port, port, 8 + len(data), 0)
    return _frame(to, _UDP, head + data)


def _frame(to: str, protocol: int, body: bytes) -> bytes:
    if ":" in to:
        ends = _packed("fec0::5054:ff:fe12:3456") + _packed(to)
        pseudo = ends + struct.pack("!II", len(body), protocol)
        packet = struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + ends
        kind = b"\x86\xdd"
    else:
        ends = _packed("10.0.2.15") + _packed(to)
        pseudo = ends + struct.pack("!HH", protocol, len(body))
        packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
        packet = packet[:10] + _checksum(packet) + packet[12:]
        kind = b"\x08\x00"
    at = 16 if protocol == _TCP else 6
    body = body[:at] + _checksum(pseudo + body) + body[at + 2 :]
    return _TO + _FROM + kind + packet + body


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _checksum(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF or 0xFFFF)


def is_from(frame: bytes, address: str) -> bool:
    """Is it a UDP packet of that IPv4 address's?"""
    is_udp = frame[12:14] == b"\x08\x00" and frame[23] == _UDP
    return is_udp and frame[26:30] == socket.inet_aton(address)
