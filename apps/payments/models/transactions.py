"""Payments of both kinds in one shape, read-only: the database view `transactions`."""

from django.db import models

from apps.core.fields import AtomicField, PubkeyField


class Transaction(models.Model):
    """A payment: a charged intent, or one user paying another within the custodial wallet.

    `id` is the intent's digest, or `custodial-<number>`; `amount` is USDC, `amount_atomic` the same in atomic units.
    `latency_ms` is what the gateway measured and reported, known once its event has arrived; nobody measures it for
    custodial payments. Intents name keys, custodial payments users; the other columns are null.
    """

    class Kind(models.TextChoices):
        INTENT = "intent", "paid at a gateway"
        CUSTODIAL = "custodial", "paid from balance to balance"

    id = models.CharField(max_length=64, primary_key=True)
    hash = models.CharField(max_length=64)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    from_agent_id = models.BigIntegerField(null=True)
    to_vendor_id = models.BigIntegerField(null=True)
    from_agent = PubkeyField(null=True)
    to_vendor = PubkeyField(null=True)
    gateway = PubkeyField(null=True)
    amount = models.DecimalField(max_digits=20, decimal_places=9)
    amount_atomic = AtomicField()
    status = models.CharField(max_length=20)
    latency_ms = models.IntegerField(null=True, db_column="latency")
    settled_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "transactions"

    def __str__(self) -> str:
        return self.id
