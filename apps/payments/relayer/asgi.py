"""The relayer process: `uvicorn apps.payments.relayer.asgi:app`."""

import contextlib
import os
from collections.abc import AsyncIterator

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")
django.setup()

from apps.core import asgi  # noqa: E402  needs the settings above
from apps.payments.relayer.startup import started_relayer  # noqa: E402

_route: asgi.Scope = {}


@contextlib.asynccontextmanager
async def _lifespan() -> AsyncIterator[None]:
    async with started_relayer() as relayer:
        _route["relayer"] = relayer
        yield


async def _answer(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    await _route["relayer"](scope, receive, send)


app = asgi.application(_answer, _lifespan)
