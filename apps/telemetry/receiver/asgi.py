"""The receiver process: `uvicorn apps.telemetry.receiver.asgi:app`. Raw ASGI, no Django in the request path."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")
django.setup()

from django.conf import settings  # noqa: E402  needs the settings above

from apps.core.asgi import application  # noqa: E402
from apps.core.redis import async_redis  # noqa: E402
from apps.telemetry.receiver.app import Receiver  # noqa: E402
from apps.telemetry.receiver.buffer import Buffer  # noqa: E402
from apps.telemetry.receiver.coverage import Coverage  # noqa: E402
from apps.telemetry.receiver.publish import Publisher  # noqa: E402
from apps.telemetry.receiver.write import Writer, create_pool  # noqa: E402

# One transaction collects rows while the other commits.
WRITERS: Final = 2

_pool = create_pool(settings.DATABASE_URL, size=WRITERS + 1)
_receiver = Receiver(
    buffer=Buffer(
        rows_max=settings.RECEIVER_BUFFER_ROWS,
        flush_rows=settings.RECEIVER_FLUSH_ROWS,
        linger_s=settings.RECEIVER_LINGER_MS / 1000,
    ),
    writer=Writer(_pool),
    publisher=Publisher(async_redis()),
    coverage=Coverage(),
    writers=WRITERS,
)


@contextlib.asynccontextmanager
async def _lifespan() -> AsyncIterator[None]:
    # Not waited for: without a database the process answers 503 and 429 until there is one.
    await _pool.open(wait=False)
    try:
        async with _receiver.running():
            yield
    finally:
        await _pool.close()
        await async_redis().aclose()


app = application(_receiver, _lifespan)
