"""Registers the telemetry app and its partitioned tables."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    name = "apps.telemetry"
    label = "telemetry"
    verbose_name = "Telemetry"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from apps.core import partitions
        from apps.telemetry.tables import TABLES

        for table in TABLES:
            partitions.register(table)
