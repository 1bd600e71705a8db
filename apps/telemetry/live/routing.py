"""The paths of the live streams. `machpay_site.asgi` puts them in front of Django."""

from channels.auth import AuthMiddlewareStack
from django.urls import re_path

from apps.telemetry.live.consumer import LiveConsumer

_application = AuthMiddlewareStack(LiveConsumer.as_asgi())

http_urlpatterns = [
    re_path(path, _application) for path in (r"^events$", r"^v1/events$", r"^v1/telemetry/live$")
]
