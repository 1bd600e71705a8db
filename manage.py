#!/usr/bin/env python
"""Django's command line for the network: migrations, operator commands, shells.

While the demo runs, commands typed in another terminal talk to it: its `var/demo.env` supplies what the environment
does not say.
"""

import os
import sys
from pathlib import Path


def join_running_demo() -> None:
    demo_env = Path(__file__).resolve().parent / "var" / "demo.env"
    if "DATABASE_URL" in os.environ or not demo_env.exists():
        return
    for line in demo_env.read_text().splitlines():
        name, _, value = line.partition("=")
        os.environ.setdefault(name, value)


def main() -> None:
    join_running_demo()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"{error}. For the demo's network: `make demo` has to be running.")


if __name__ == "__main__":
    main()
