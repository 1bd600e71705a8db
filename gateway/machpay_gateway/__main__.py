"""`python -m machpay_gateway`: the same as the `machpay-gateway` command."""

import sys

from machpay_gateway.cli import main

sys.exit(main())
