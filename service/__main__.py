"""`python -m service` is `ldm`."""

import sys

from service.cli import main

sys.exit(main())
