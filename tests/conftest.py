"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# These machines are noisy: no test has a clock.
settings.register_profile("vmcapsule", deadline=None)
settings.load_profile("vmcapsule")
