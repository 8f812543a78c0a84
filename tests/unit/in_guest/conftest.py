"""What tests of the guest's script share: a place that stands in for the guest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Iterator

import pytest

from tests.unit.guest_place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """Not in pytest's own folder: as root the job runs as nobody, who cannot enter that."""
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        Path(name).chmod(0o755)
        yield Place(Path(name))
