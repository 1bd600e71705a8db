"""ASGI entry point: live streams (`live`), and everything else on the same origin in the demo."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (needs loaded apps)
from django.urls import re_path  # noqa: E402

from apps.telemetry.live.routing import http_urlpatterns  # noqa: E402

# Channels' routers take ASGI applications where Django's stubs know views only.
everything_else = re_path(r"", django_application)  # type: ignore[arg-type]
application = ProtocolTypeRouter({"http": URLRouter([*http_urlpatterns, everything_else])})
