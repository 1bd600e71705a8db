"""ASGI entry point: live streams (`live`), and everything else on the same origin in the demo."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402  (needs loaded apps)
from django.urls import re_path  # noqa: E402

from apps.telemetry.live.routing import http_urlpatterns  # noqa: E402

application = ProtocolTypeRouter({"http": URLRouter([*http_urlpatterns, re_path(r"", django_application)])})
