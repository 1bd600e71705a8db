"""Makes sure that the Anchor test has Node and a stock Anchor client: `python -m tests.anchor.install`.

Called by `make test` and by the test itself.
"""

import sys
from pathlib import Path

from tests.support.node import InstallError, packages

HERE = Path(__file__).parent


def client_folder() -> Path:
    """The folder with node_modules, after installing what is missing."""
    return packages(HERE, "anchor-client")


if __name__ == "__main__":
    try:
        client_folder()
    except InstallError as error:
        sys.exit(str(error))
