from django.apps import AppConfig

from apps.core import partitions


class PaymentsConfig(AppConfig):
    name = "apps.payments"
    label = "payments"
    verbose_name = "Payments"

    def ready(self) -> None:
        from apps.payments.models import INTENT_PARTITIONS

        partitions.register(INTENT_PARTITIONS)
