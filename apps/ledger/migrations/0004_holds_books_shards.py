"""Holds, books, and accounts that are several rows."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import apps.core.fields
import apps.ledger.chart
import apps.ledger.types


class Migration(migrations.Migration):
    dependencies = [
        ("ledger", "0003_ways_out_of_a_bond"),
    ]

    operations = [
        migrations.CreateModel(
            name="Hold",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("key", models.CharField(db_collation="C", max_length=200, unique=True)),
                ("input_hash", models.BinaryField(max_length=32)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("OPEN", "held"),
                            ("POSTED", "posted"),
                            ("VOIDED", "voided"),
                            ("EXPIRED", "expired"),
                        ],
                        db_collation="C",
                        db_default="OPEN",
                        default="OPEN",
                        max_length=8,
                    ),
                ),
                (
                    "posted_atomic",
                    apps.core.fields.AtomicField(
                        db_default=0, default=0, help_text="What the posting transfer took of it."
                    ),
                ),
                ("expires_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("resolved_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "ledger_hold",
            },
        ),
        migrations.RemoveConstraint(
            model_name="account",
            name="ledger_account_name",
        ),
        migrations.RemoveConstraint(
            model_name="account",
            name="ledger_account_not_negative",
        ),
        migrations.RemoveConstraint(
            model_name="account",
            name="ledger_account_kind_known",
        ),
        migrations.RemoveConstraint(
            model_name="transfer",
            name="ledger_transfer_kind_known",
        ),
        migrations.AddField(
            model_name="account",
            name="book",
            field=models.CharField(
                db_collation="C",
                db_default=apps.ledger.types.Book["MAIN"],
                default=apps.ledger.types.Book["MAIN"],
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="account",
            name="held_atomic",
            field=apps.core.fields.AtomicField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="account",
            name="shard",
            field=models.SmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.UniqueConstraint(
                fields=("owner", "kind", "sub", "currency", "book", "shard"), name="ledger_account_name"
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "kind__in",
                        [
                            apps.ledger.chart.AccountKind["DEPOSITS"],
                            apps.ledger.chart.AccountKind["WITHDRAWN"],
                            apps.ledger.chart.AccountKind["SWEPT"],
                            apps.ledger.chart.AccountKind["BOND"],
                            apps.ledger.chart.AccountKind["FORFEITED"],
                            apps.ledger.chart.AccountKind["SPENT_UNSETTLED"],
                            apps.ledger.chart.AccountKind["UNSETTLED"],
                            apps.ledger.chart.AccountKind["SETTLED"],
                            apps.ledger.chart.AccountKind["OWED"],
                            apps.ledger.chart.AccountKind["CUSTODY_DEPOSITS"],
                            apps.ledger.chart.AccountKind["CUSTODIAL"],
                            apps.ledger.chart.AccountKind["UNCLAIMED"],
                            apps.ledger.chart.AccountKind["PAID_OUT"],
                        ],
                    )
                ),
                name="ledger_account_kind_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("book__in", [apps.ledger.types.Book["MAIN"], apps.ledger.types.Book["SIMULATION"]])
                ),
                name="ledger_account_book_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("shard", 0),
                    models.Q(
                        ("kind__in", [apps.ledger.chart.AccountKind["CUSTODIAL"]]),
                        ("shard__gt", 0),
                        ("shard__lt", 16),
                    ),
                    _connector="OR",
                ),
                name="ledger_account_shard",
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(("held_atomic__gte", 0)), name="ledger_account_held"
            ),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("balance_atomic__gte", models.F("held_atomic")),
                    models.Q(
                        ("held_atomic", 0),
                        (
                            "kind__in",
                            [
                                apps.ledger.chart.AccountKind["DEPOSITS"],
                                apps.ledger.chart.AccountKind["SPENT_UNSETTLED"],
                                apps.ledger.chart.AccountKind["CUSTODY_DEPOSITS"],
                            ],
                        ),
                    ),
                    _connector="OR",
                ),
                name="ledger_account_not_negative",
            ),
        ),
        migrations.AddConstraint(
            model_name="transfer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "kind__in",
                        [
                            apps.ledger.chart.TransferKind["DEPOSIT"],
                            apps.ledger.chart.TransferKind["CHARGE"],
                            apps.ledger.chart.TransferKind["CLAIMED"],
                            apps.ledger.chart.TransferKind["SETTLE"],
                            apps.ledger.chart.TransferKind["DISTRIBUTE"],
                            apps.ledger.chart.TransferKind["WITHDRAW"],
                            apps.ledger.chart.TransferKind["SLASH"],
                            apps.ledger.chart.TransferKind["SWEEP"],
                            apps.ledger.chart.TransferKind["CUSTODY_DEPOSIT"],
                            apps.ledger.chart.TransferKind["ATTRIBUTE"],
                            apps.ledger.chart.TransferKind["PAY"],
                            apps.ledger.chart.TransferKind["PAYOUT"],
                            apps.ledger.chart.TransferKind["FOLD"],
                        ],
                    )
                ),
                name="ledger_transfer_kind_known",
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="holds",
                to="ledger.account",
            ),
        ),
        migrations.AddField(
            model_name="hold",
            name="transfer",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="hold",
                to="ledger.transfer",
            ),
        ),
        migrations.AddIndex(
            model_name="hold",
            index=models.Index(
                condition=models.Q(("state", "OPEN")), fields=["account"], name="ledger_hold_open"
            ),
        ),
        migrations.AddIndex(
            model_name="hold",
            index=models.Index(
                condition=models.Q(("expires_at__isnull", False), ("state", "OPEN")),
                fields=["expires_at"],
                name="ledger_hold_expiring",
            ),
        ),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount_atomic__gt", 0)), name="ledger_hold_amount"
            ),
        ),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("posted_atomic__gt", 0),
                        ("posted_atomic__lte", models.F("amount_atomic")),
                        ("resolved_at__isnull", False),
                        ("state", "POSTED"),
                        ("transfer__isnull", False),
                    ),
                    models.Q(
                        ("posted_atomic", 0),
                        ("resolved_at__isnull", False),
                        ("state__in", ["VOIDED", "EXPIRED"]),
                        ("transfer__isnull", True),
                    ),
                    models.Q(
                        ("posted_atomic", 0),
                        ("resolved_at__isnull", True),
                        ("state", "OPEN"),
                        ("transfer__isnull", True),
                    ),
                    _connector="OR",
                ),
                name="ledger_hold_resolution",
            ),
        ),
    ]
