"""What tests on a pool share: one running pool, and its logs with every failure."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Generator, Iterator

import pytest

from tests.pool.pool import Pool
from tests.pool.root import SuiteUnavailable
from vmcapsule.errors import VmCapsuleError
from vmcapsule.process import run

_RUNNING: pytest.StashKey[Pool] = pytest.StashKey()


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    """Skip where a pool cannot have any: without root, and in a plain chroot."""
    tried = run(["unshare", "--mount", "true"], timeout_s=60, check=False)
    if tried.returncode != 0:
        reason = tried.stderr.decode(errors="replace").strip()
        pytest.skip(f"no namespaces for a pool here (no root, or a plain chroot): {reason}")


@pytest.fixture(scope="session")
def suite() -> str:
    """The Debian suite that pools stand on.

    The variable VMCAPSULE_POOL_SUITE names another one than trixie; the tests are skipped,
    with the reason, when one that moves cannot be had today.
    """
    return os.environ.get("VMCAPSULE_POOL_SUITE", "trixie")


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest, suite: str) -> Iterator[Pool]:
    """A pool with the plugin installed."""
    with running(request.config, suite) as made:
        yield made


@pytest.fixture(scope="module")
def all_submitted(request: pytest.FixtureRequest) -> None:
    """Submit the jobs that the module's tests to come have as fixtures named ``..._job``.

    They run side by side then, while one test after the other waits for its own.
    """
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.module is request.module:
            for name in item.fixturenames:
                if name.endswith("_job"):
                    request.getfixturevalue(name)


@contextlib.contextmanager
def running(config: pytest.Config, suite: str) -> Iterator[Pool]:
    """A pool for tests; it dies with this process, come what may."""
    made = Pool(suite, f"test-{os.getpid()}")
    try:
        made.start()
    except SuiteUnavailable as error:
        pytest.skip(str(error))
    except VmCapsuleError as error:
        pytest.fail(str(error), pytrace=False)
    config.stash[_RUNNING] = made
    try:
        yield made
    finally:
        del config.stash[_RUNNING]
        made.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Attach the daemons' logs to the report of a test that failed."""
    outcome = yield
    report = outcome.get_result()
    running = item.config.stash.get(_RUNNING, None)
    if report.failed and running is not None:
        report.sections.append(("logs of the pool", running.logs_text()))
