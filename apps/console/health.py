"""`/health` and `/metrics` of the web and live processes."""

import prometheus_client
import redis
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.console.money_metrics import MONEY
from apps.core.redis import sync_redis
from apps.telemetry.live.hub import process_hub


@never_cache
@require_safe
def health(request: HttpRequest) -> JsonResponse:
    """503 without the database. Without Redis the pages still answer, but nothing moves on them: degraded."""
    components = {"database": _database(), "redis": _redis(), "live": _live()}
    if components["database"]["status"] != "ok":
        status = "down"
    else:
        status = "ok" if all(part["status"] == "ok" for part in components.values()) else "degraded"
    body = {"status": status, "service": "web", "components": components}
    return JsonResponse(body, status=503 if status == "down" else 200)


def _database() -> dict[str, str]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return {"status": "down"}
    return {"status": "ok"}


def _redis() -> dict[str, str]:
    try:
        sync_redis().ping()
    except redis.RedisError:
        return {"status": "down"}
    return {"status": "ok"}


def _live() -> dict[str, str]:
    """The hub connects with its first stream; until then it is idle, which is fine."""
    hub = process_hub()
    if not hub.is_reading:
        return {"status": "ok", "hub": "idle"}
    return {"status": "ok" if hub.is_connected else "down", "hub": "reading"}


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Everything in prometheus_client's default registry, and money at rest."""
    body = prometheus_client.generate_latest() + prometheus_client.generate_latest(MONEY)
    return HttpResponse(body, content_type=prometheus_client.CONTENT_TYPE_LATEST)
