"""So that `python -m tally` works too."""

import sys

from tally.cli import main

sys.exit(main())
