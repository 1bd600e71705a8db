"""WSGI entry point: the API, the console and the admin in production (`web`)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")

application = get_wsgi_application()
