"""A dozen of the cases, for every change; './dev conformance' runs all of them."""

from __future__ import annotations

import os

import pytest

from tests.conformance import document
from tests.conformance.cases import load_cases
from tests.conformance.results import Results
from tests.conformance.suite import run_suite
from tests.conformance.ways import COMPARED, WAYS
from tests.pool.pool import Pool
from tests.pool.root import SuiteUnavailable

pytestmark = pytest.mark.pool

CASES = (
    "arguments-new",
    "custom-attributes",
    "environment-new",
    "exit-code",
    "inputs-links",
    "inputs-missing",
    "names-odd",
    "outputs-by-signal",
    "outputs-default",
    "outputs-missing",
    "outputs-remapped",
    "stream-output",
)
#: A way of which the page does not tell yet was never run whole; what needs a root of its own
#: is no more for every change than `tests.pool.kvm` is.
COMPARED_HERE = tuple(
    way
    for way in document.ways_of(document.read(document.PAGE.read_text(encoding="utf-8")))
    if not WAYS[way].root
)


@pytest.fixture(scope="module")
def found() -> Results:
    """The verdicts, from a pool of their own: other tests' are busy, and set otherwise."""
    suite = os.environ.get("VMCAPSULE_POOL_SUITE", "trixie")
    pool = Pool(suite, f"conformance-{os.getpid()}")
    try:
        pool.start()
    except SuiteUnavailable as error:
        pytest.skip(str(error))
    try:
        return run_suite(pool, load_cases(CASES, COMPARED), COMPARED_HERE)
    finally:
        pool.stop()


@pytest.mark.parametrize("way", COMPARED_HERE)
@pytest.mark.parametrize("name", CASES)
def test_a_job_does_not_notice(found: Results, name: str, way: str) -> None:
    assert found.verdicts[name][way].wrong == ()
