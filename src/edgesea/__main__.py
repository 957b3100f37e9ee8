"""`python -m edgesea`."""

import sys

from edgesea.cli import main

sys.exit(main())
