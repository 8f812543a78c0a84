"""``python -m vmcapsule``."""

import sys

from vmcapsule.cli.cli import main

sys.exit(main())
