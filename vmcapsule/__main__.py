"""``python -m vmcapsule``."""

import sys

from vmcapsule.cli import main

sys.exit(main())
