"""Ads, as a starter makes and reads them."""

import re
import time

MYPY = False
if MYPY:
    from typing import Dict


def parse_ad(text: str) -> "Dict[str, str]":
    """Attributes and expressions of an ad, one ``Attr = expr`` a line."""
    pairs = (line.partition("=") for line in text.split("\n") if not line.startswith("#"))
    return {name.strip(): value.strip() for name, mark, value in pairs if mark}


def ad_text(ad: "Dict[str, str]") -> str:
    return "".join(f"{name} = {ad[name]}\n" for name in sorted(ad, key=str.lower))


def machine_ad(host_ad: str, startd_ad: str) -> str:
    """The slot's ad for the job to read: the host's on top of the startd's, if any."""
    ad = {n: v for n, v in parse_ad(startd_ad).items() if not n.startswith("Child")}
    ad.update(parse_ad(host_ad))
    return ad_text(ad)


def sandbox_ad(host_ad: str, sandbox: str) -> str:
    """The job's ad for the job to read: the host's, with what is known only now."""
    ad = parse_ad(host_ad)
    ad.update(Iwd=f'"{sandbox}"', JobCurrentStartDate=str(int(time.time())))
    ad.setdefault("JobStartDate", ad["JobCurrentStartDate"])
    return ad_text(ad)


def number(ad: "Dict[str, str]", name: str) -> float:
    """An attribute that is a literal number, else 0."""
    value = ad.get(name, "0")
    return float(value) if re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", value) else 0.0


def core_name(ad: "Dict[str, str]") -> str:
    """A core file's name, as OsProc::checkCoreFile gives it."""
    return "core.{}.{}".format(int(number(ad, "ClusterId")), int(number(ad, "ProcId")))
