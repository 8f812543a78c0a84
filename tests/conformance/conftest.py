"""What tests on a pool of their own share: they are skipped where there can be none."""

from tests.pool.conftest import namespaces

__all__ = ["namespaces"]
