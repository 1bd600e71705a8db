"""What a gateway finds around it when it starts, and how many files it may open. Nothing here keeps it from serving:
payments wait in the log and events on disk until somebody takes them."""

import asyncio
import logging
import resource
from typing import Final

import aiohttp

from machpay_gateway.check import TIMEOUT_S, look_at_service
from machpay_gateway.settings import Settings

FILES_BESIDE: Final = 1024
"""Open files beside clients and upstream: the log, relayer, receiver, siblings."""

logger = logging.getLogger(__name__)


def allow_files(settings: Settings) -> None:
    """Raise this process's limit of open files to what its configuration may need: each connection is one, and shells
    allow 1,024. Beyond the limit paid requests would fail for want of a connection to the upstream."""
    needed = settings.limits.max_connections + settings.upstream.max_connections + FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unbounded = resource.RLIM_INFINITY
    allowed = needed if hard == unbounded else min(needed, hard)
    if soft != unbounded and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        logger.warning(
            "this process may open %d files, limits.max_connections and upstream.max_connections may need %d: "
            "lower them, or raise the limit (ulimit -n, LimitNOFILE)",
            allowed,
            needed,
        )


async def look_around(settings: Settings, *, undelivered: int) -> None:
    """Look at relayer and receiver once, and say what was found and what is left of an earlier run."""
    if undelivered:
        logger.info("%d payments of an earlier run are handed over to the relayer now", undelivered)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
        findings = await asyncio.gather(
            look_at_service(session, "relayer", settings.relayer_url),
            look_at_service(session, "receiver", settings.receiver_url),
        )
    waits = {"relayer": "payments wait in the log, new agents are refused", "receiver": "events wait on disk"}
    for finding in findings:
        if finding.level == "ok":
            logger.info("%s is well: %s", finding.what, finding.detail)
        elif finding.level == "warn":
            logger.warning("%s is not quite well: %s", finding.what, finding.detail)
        else:
            logger.warning(
                "%s is away, until it is back %s: %s", finding.what, waits[finding.what], finding.detail
            )
