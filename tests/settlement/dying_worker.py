"""A worker that follows and pays payouts once, and kills itself with SIGKILL at one point.

    python -m tests.settlement.dying_worker POINT

POINT is `<module>:<function>:before|after`: the process dies when that function is called, or has returned. Without a
point that is reached it ends normally.
"""

import importlib
import os
import signal
import sys
from typing import Any


def die_at(point: str) -> None:
    module_name, name, moment = point.split(":")
    owner: Any = importlib.import_module(module_name)
    *path, attribute = name.split(".")
    for step in path:
        owner = getattr(owner, step)
    original = getattr(owner, attribute)

    if name.endswith("ChainClient.send"):

        async def send(*args: Any, **kwargs: Any) -> None:
            if moment == "after":
                await original(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, attribute, send)
        return

    def dies(*args: Any, **kwargs: Any) -> None:
        if moment == "after":
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, dies)


def main() -> None:
    import django

    django.setup()
    from apps.settlement.chain import connect
    from apps.settlement.services.payouts import follow_payouts, pay_payouts

    die_at(sys.argv[1])
    with connect() as chain:
        follow_payouts(chain)
        pay_payouts(chain)


if __name__ == "__main__":
    main()
