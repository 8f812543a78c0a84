"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# These machines are noisy: no test has a clock.
settings.register_profile("vmcapsule", deadline=None)
settings.load_profile("vmcapsule")

# Many trees on FAT volumes: tox's environment "trees".
settings.register_profile("trees", settings.get_profile("vmcapsule"), max_examples=20_000)

# Talks to a vm-gahp that is root: tox's environment "dialogues".
settings.register_profile("dialogues", settings.get_profile("vmcapsule"), max_examples=10_000)
