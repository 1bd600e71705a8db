import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import apps.core.fields


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Payout",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("reference", models.CharField(help_text="The user's own name for it.", max_length=64)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                (
                    "wallet",
                    apps.core.fields.PubkeyField(
                        help_text="Paid into this wallet's associated token account."
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("PENDING", "requested"),
                            ("SENT", "on its way"),
                            ("CONFIRMED", "paid and final"),
                            ("FAILED", "not paid; the balance is back"),
                        ],
                        db_collation="C",
                        default="PENDING",
                        max_length=10,
                    ),
                ),
                (
                    "tx_hash",
                    models.CharField(blank=True, db_collation="C", help_text="What paid it.", max_length=88),
                ),
                ("attempt_count", models.SmallIntegerField(default=0)),
                (
                    "not_before",
                    models.DateTimeField(help_text="Not tried again before this time.", null=True),
                ),
                ("error", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("sent_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "cancelled_by",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="payouts",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "payouts",
            },
        ),
        migrations.CreateModel(
            name="PayoutAttempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("number", models.SmallIntegerField()),
                ("signature", models.CharField(db_collation="C", max_length=88, unique=True)),
                ("raw_transaction", models.BinaryField()),
                ("last_valid_block_height", models.BigIntegerField()),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("OPEN", "undecided"),
                            ("LANDED", "final"),
                            ("FAILED", "final, without effect"),
                            ("EXPIRED", "can never land"),
                        ],
                        db_collation="C",
                        default="OPEN",
                        max_length=8,
                    ),
                ),
                ("send_count", models.IntegerField(default=0)),
                ("slot", models.BigIntegerField(null=True)),
                (
                    "error",
                    models.CharField(
                        blank=True, help_text="What the last send or the chain said.", max_length=200
                    ),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "payout",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="attempts",
                        to="vendors.payout",
                    ),
                ),
            ],
            options={
                "db_table": "payout_attempts",
            },
        ),
        migrations.CreateModel(
            name="PayoutDestination",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("wallet", apps.core.fields.PubkeyField()),
                (
                    "challenge",
                    models.CharField(help_text="What the wallet signs to confirm it.", max_length=64),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("confirmed_at", models.DateTimeField(null=True)),
                ("usable_from", models.DateTimeField(null=True)),
                ("removed_at", models.DateTimeField(null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="payout_destinations",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "vendors_payout_destination",
            },
        ),
        migrations.AddIndex(
            model_name="payout",
            index=models.Index(
                condition=models.Q(("status", "PENDING")), fields=["id"], name="payouts_pending"
            ),
        ),
        migrations.AddIndex(
            model_name="payout",
            index=models.Index(fields=["user", "-id"], name="payouts_user"),
        ),
        migrations.AddConstraint(
            model_name="payout",
            constraint=models.UniqueConstraint(fields=("user", "reference"), name="payouts_reference"),
        ),
        migrations.AddConstraint(
            model_name="payout",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount_atomic__gt", 0)), name="payouts_amount"
            ),
        ),
        migrations.AddConstraint(
            model_name="payout",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("ended_at__isnull", True), ("status__in", ["PENDING", "SENT"]), ("tx_hash", "")
                    ),
                    models.Q(
                        ("ended_at__isnull", False),
                        ("status", "CONFIRMED"),
                        models.Q(("tx_hash", ""), _negated=True),
                    ),
                    models.Q(("ended_at__isnull", False), ("status", "FAILED"), ("tx_hash", "")),
                    _connector="OR",
                ),
                name="payouts_end",
            ),
        ),
        migrations.AddIndex(
            model_name="payoutattempt",
            index=models.Index(
                condition=models.Q(("outcome", "OPEN")), fields=["id"], name="payout_attempts_open"
            ),
        ),
        migrations.AddConstraint(
            model_name="payoutattempt",
            constraint=models.UniqueConstraint(fields=("payout", "number"), name="payout_attempts_number"),
        ),
        migrations.AddConstraint(
            model_name="payoutattempt",
            constraint=models.UniqueConstraint(
                condition=models.Q(("outcome__in", ["OPEN", "LANDED"])),
                fields=("payout",),
                name="payout_attempts_one_alive",
            ),
        ),
        migrations.AddConstraint(
            model_name="payoutattempt",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("ended_at__isnull", True), ("outcome", "OPEN")),
                    models.Q(("ended_at__isnull", False), ("outcome__in", ["LANDED", "FAILED", "EXPIRED"])),
                    _connector="OR",
                ),
                name="payout_attempts_end",
            ),
        ),
        migrations.AddConstraint(
            model_name="payoutdestination",
            constraint=models.UniqueConstraint(
                condition=models.Q(("removed_at__isnull", True)),
                fields=("user", "wallet"),
                name="vendors_payout_destination_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="payoutdestination",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("confirmed_at__isnull", True), ("usable_from__isnull", True)),
                    models.Q(("confirmed_at__isnull", False), ("usable_from__isnull", False)),
                    _connector="OR",
                ),
                name="vendors_payout_destination_confirmed",
            ),
        ),
    ]
