"""What keeps the pages current."""

import redis
from celery import shared_task

from apps.console import selectors, stats
from apps.core import live


@shared_task(name="console.publish_stats", soft_time_limit=5, time_limit=10)  # type: ignore[untyped-decorator, unused-ignore]
def publish_stats() -> bool:
    """Publish the network's figures on the `stats` topic; False if Redis could not take them. Runs every second."""
    totals = selectors.totals()
    try:
        rate = stats.record(totals)
    except redis.RedisError:
        return False
    live.publish(live.STATS, "stats", stats.event_data(totals, rate))
    return True
