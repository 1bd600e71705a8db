import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import apps.core.fields


class Migration(migrations.Migration):
    dependencies = [
        ("payments", "0012_slashing"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Transaction",
            fields=[
                ("id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("hash", models.CharField(max_length=64)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("intent", "paid at a gateway"),
                            ("custodial", "paid from balance to balance"),
                        ],
                        max_length=10,
                    ),
                ),
                ("from_agent_id", models.BigIntegerField(null=True)),
                ("to_vendor_id", models.BigIntegerField(null=True)),
                ("from_agent", apps.core.fields.PubkeyField(null=True)),
                ("to_vendor", apps.core.fields.PubkeyField(null=True)),
                ("gateway", apps.core.fields.PubkeyField(null=True)),
                ("amount", models.DecimalField(decimal_places=9, max_digits=20)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                ("status", models.CharField(max_length=20)),
                ("latency_ms", models.IntegerField(db_column="latency", null=True)),
                ("settled_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "db_table": "transactions",
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="CustodyCursor",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("signature", models.CharField(blank=True, db_collation="C", max_length=88)),
                ("slot", models.BigIntegerField(default=0)),
            ],
            options={
                "db_table": "payments_custody_cursor",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("id", 1)), name="payments_custody_cursor_single"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="DepositReference",
            fields=[
                ("reference", apps.core.fields.PubkeyField(primary_key=True, serialize=False)),
                ("issued_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deposit_reference",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "payments_deposit_reference",
            },
        ),
        migrations.CreateModel(
            name="CustodialDeposit",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("signature", models.CharField(db_collation="C", max_length=88)),
                ("instruction", models.CharField(db_collation="C", max_length=12)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                (
                    "source",
                    apps.core.fields.PubkeyField(
                        blank=True, help_text="The token account it came from; empty if it was minted."
                    ),
                ),
                ("slot", models.BigIntegerField()),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("CREDITED", "credited by its reference"),
                            ("UNCLAIMED", "names no reference"),
                            ("ATTRIBUTED", "credited by an operator"),
                        ],
                        max_length=10,
                    ),
                ),
                ("attributed_at", models.DateTimeField(null=True)),
                (
                    "note",
                    models.CharField(blank=True, help_text="Why an operator credited whom.", max_length=300),
                ),
                ("seen_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "attributed_by",
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
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="custodial_deposits",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "payments_custodial_deposit",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("signature", "instruction"), name="payments_custodial_deposit_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount_atomic__gt", 0)), name="payments_custodial_deposit_amount"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("attributed_by__isnull", True),
                                ("status", "UNCLAIMED"),
                                ("user__isnull", True),
                            ),
                            models.Q(
                                ("attributed_by__isnull", True),
                                ("status", "CREDITED"),
                                ("user__isnull", False),
                            ),
                            models.Q(
                                ("attributed_by__isnull", False),
                                ("status", "ATTRIBUTED"),
                                ("user__isnull", False),
                                models.Q(("note", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="payments_custodial_deposit_whose",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="CustodialPayment",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                ("reference", models.CharField(help_text="The payer's own name for it.", max_length=64)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "payee",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "payer",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "payments_custodial_payment",
                "indexes": [
                    models.Index(fields=["payer", "-id"], name="payments_custodial_payer"),
                    models.Index(fields=["payee", "-id"], name="payments_custodial_payee"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("payer", "reference"), name="payments_custodial_payment_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount_atomic__gt", 0)), name="payments_custodial_payment_amount"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("payer", models.F("payee")), _negated=True),
                        name="payments_custodial_payment_parties",
                    ),
                ],
            },
        ),
    ]
