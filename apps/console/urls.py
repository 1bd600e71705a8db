"""The console's paths."""

from django.urls import path

from apps.console import health, views

app_name = "console"
urlpatterns = [
    path("", views.home, name="home"),
    path("parts/<slug:name>", views.part, name="part"),
    path("health", health.health, name="health"),
    path("metrics", health.metrics, name="metrics"),
]
