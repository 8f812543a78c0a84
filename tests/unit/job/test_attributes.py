"""What becomes of every attribute that HTCondor's starter or shadow reads in a job's ad."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest

from tests.job_attributes import Attribute, derived, listed
from tests.unit.guest_place import SCRIPT
from vmcapsule.classad.ads import Ad, parse_ad
from vmcapsule.errors import JobRefused
from vmcapsule.guest.ad import guest_ad
from vmcapsule.job.attributes import belongs_to_source
from vmcapsule.job.source import SourceJob, read_job
from vmcapsule.router.route import CapsuleFacts
from vmcapsule.router.routed_ad import routed_ad
from vmcapsule.router.routes import route_of

ROOT = Path(__file__).resolve().parents[3]
LISTED = listed()
GUEST_SCRIPT = SCRIPT.read_text()
TEMPLATE = parse_ad((ROOT / "templates" / "kvm-gahp.classad").read_text())
FACTS = CapsuleFacts(Path("/scratch/c"), "", ("data.vmdk",), (), 200, 1, 1000)


def of(*verdicts: str) -> list[Attribute]:
    return [attribute for attribute in LISTED if attribute.verdict in verdicts]


def names(attribute: Attribute) -> str:
    return attribute.name


def source_ad(attribute: Optional[Attribute], *companions: str) -> Ad:
    """A plain job's ad with ``companions`` in it, and with the attribute, if any."""
    lines = ['Cmd = "/bin/true"', 'Iwd = "/home/alice"', *companions]
    text = "\n".join(lines) + "\n" + (attribute.line if attribute else "")
    return parse_ad(text)


def jobs(attribute: Attribute) -> tuple[SourceJob, SourceJob]:
    """The job without the attribute, and with it; their ads count as equal."""
    without = read_job(source_ad(None, *attribute.companions))
    job = read_job(source_ad(attribute, *attribute.companions))
    return without, job


def in_guest(job: SourceJob) -> Ad:
    return parse_ad(guest_ad(job, executable="true", stdin=None, stdout=None, stderr=None))


def routed(job: SourceJob) -> str:
    return routed_ad(job, route_of(TEMPLATE), TEMPLATE, FACTS).long_form()


def test_each_is_listed_once_under_a_known_verdict() -> None:
    found = [attribute.name.lower() for attribute in LISTED]
    assert sorted(found) == sorted(set(found))
    assert {attribute.verdict for attribute in LISTED} == {
        *("refused", "job", "guest", "routed", "source", "nothing", "bookkeeping", "elsewhere")
    }
    assert len(LISTED) > 300


@pytest.mark.parametrize("attribute", of("refused"), ids=names)
def test_what_is_refused_is_named(attribute: Attribute) -> None:
    with pytest.raises(JobRefused, match=f"^{attribute.name} = "):
        read_job(source_ad(attribute, *attribute.companions))
    read_job(source_ad(None, *attribute.companions))


@pytest.mark.parametrize("attribute", of("job"), ids=names)
def test_what_the_job_is_made_of_changes_it(attribute: Attribute) -> None:
    without, job = jobs(attribute)
    assert job._replace(attributes=without.attributes) != without


@pytest.mark.parametrize("attribute", of("guest"), ids=names)
def test_what_the_guest_acts_upon_reaches_both_runners(attribute: Attribute) -> None:
    ad = in_guest(jobs(attribute)[1])
    assert ad.expr(attribute.name) == attribute.value
    assert f'"{attribute.name}"' in GUEST_SCRIPT


@pytest.mark.parametrize("attribute", of("routed"), ids=names)
def test_what_the_routed_job_needs_reaches_it(attribute: Attribute) -> None:
    without, job = jobs(attribute)
    assert routed(job) != routed(without)


@pytest.mark.parametrize("attribute", of("source"), ids=names)
def test_what_stays_on_the_source_is_nowhere_else(attribute: Attribute) -> None:
    without, job = jobs(attribute)
    assert routed(job) == routed(without)
    assert attribute.name not in in_guest(job)


@pytest.mark.parametrize("attribute", of("nothing", "bookkeeping"), ids=names)
def test_what_does_nothing_changes_neither_the_job_nor_its_routed_copy(
    attribute: Attribute,
) -> None:
    without, job = jobs(attribute)
    assert job._replace(attributes=without.attributes) == without
    assert routed(job) == routed(without)


@pytest.mark.parametrize("attribute", of("bookkeeping"), ids=names)
def test_bookkeeping_is_known_for_htcondors_own(attribute: Attribute) -> None:
    assert belongs_to_source(attribute.name)


def test_names_are_derived_from_code_that_reads_them(tmp_path: Path) -> None:
    for name in ("condor_includes", "condor_starter.V6.1"):
        (tmp_path / name).mkdir()
    (tmp_path / "condor_includes" / "condor_attributes.h").write_text(
        '#define ATTR_ONE "One"\nextern const char ATTR_TWO [] = "Two";\n#define ATTR_X "X"\n'
    )
    (tmp_path / "condor_starter.V6.1" / "os_proc.cpp").write_text(
        "ad->LookupInteger( ATTR_ONE, n ); // ATTR_X\n"
        "/* ATTR_X */ initKillSigs(ATTR_TWO);\n"
        'ad->Assign(ATTR_X, 1); dprintf(D_ALL, "%s", ATTR_X);\n'
        'if (ad->EvaluateAttrBool("Three", b)) return;\n'
    )
    assert set(derived(tmp_path)) == {"One", "Two", "Three"}
