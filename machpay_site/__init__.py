"""The composition root: settings, URLs, ASGI and WSGI entry points, Celery and its schedule.

Only this package knows all the apps; nothing imports it except the processes that start it.
"""
