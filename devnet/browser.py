"""Makes sure that the browser tests have a browser: `python -m devnet.browser`, called by `make test`.

On Debian as root it installs Chromium and a font; elsewhere it says what is missing and the browser tests skip
nothing: they fail with the same advice.
"""

import os
import shutil
import subprocess
import sys

PACKAGES = ("chromium", "fonts-dejavu-core")


def main() -> int:
    if shutil.which("chromium"):
        return 0
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print("Browser tests need Chromium: apt-get install " + " ".join(PACKAGES), file=sys.stderr)
        return 0
    print("Installing Chromium for the browser tests ...", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
    ):
        finished = subprocess.run(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if finished.returncode:
            print(finished.stdout[-2000:], file=sys.stderr)
            return finished.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
