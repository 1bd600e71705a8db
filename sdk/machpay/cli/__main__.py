"""`python -m machpay.cli`."""

import sys

from machpay.cli import main

sys.exit(main())
