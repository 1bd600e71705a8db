"""The paths of the live streams. `machpay_site.asgi` puts them in front of Django."""

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, re_path

from apps.telemetry.live.consumer import LiveConsumer


def http_urlpatterns(authenticate: Callable[[Any], Any]) -> list[URLPattern]:
    """Routes for Channels' `URLRouter`; `authenticate` wraps the consumer and sets `scope["user"]`."""
    application = authenticate(LiveConsumer.as_asgi())
    return [re_path(path, application) for path in (r"^events$", r"^v1/events$", r"^v1/telemetry/live$")]
