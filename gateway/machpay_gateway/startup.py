"""What a gateway finds around it when it starts. Nothing here keeps it from serving: payments wait in the log and
events on disk until somebody takes them."""

import asyncio
import logging

import aiohttp

from machpay_gateway.check import TIMEOUT_S, look_at_service
from machpay_gateway.settings import Settings

logger = logging.getLogger(__name__)


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
