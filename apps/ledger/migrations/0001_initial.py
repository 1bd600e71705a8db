import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
from django.db import migrations, models

import apps.core.fields
import apps.ledger.chart


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Account",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("kind", models.CharField(db_collation="C", max_length=32)),
                ("owner", models.CharField(db_collation="C", max_length=64)),
                ("sub", models.CharField(blank=True, db_collation="C", max_length=64)),
                ("currency", models.CharField(db_collation="C", max_length=44)),
                ("balance_atomic", apps.core.fields.AtomicField(default=0)),
                ("version", models.BigIntegerField(default=0)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "ledger_account",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("owner", "kind", "sub", "currency"), name="ledger_account_name"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "kind__in",
                                [
                                    apps.ledger.chart.AccountKind["DEPOSITS"],
                                    apps.ledger.chart.AccountKind["BOND"],
                                    apps.ledger.chart.AccountKind["SPENT_UNSETTLED"],
                                    apps.ledger.chart.AccountKind["UNSETTLED"],
                                    apps.ledger.chart.AccountKind["SETTLED"],
                                    apps.ledger.chart.AccountKind["OWED"],
                                ],
                            )
                        ),
                        name="ledger_account_kind_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("balance_atomic__gte", 0),
                            (
                                "kind__in",
                                [
                                    apps.ledger.chart.AccountKind["DEPOSITS"],
                                    apps.ledger.chart.AccountKind["SPENT_UNSETTLED"],
                                ],
                            ),
                            _connector="OR",
                        ),
                        name="ledger_account_not_negative",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Transfer",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("key", models.CharField(db_collation="C", max_length=200, unique=True)),
                ("kind", models.CharField(max_length=32)),
                ("input_hash", models.BinaryField(max_length=32)),
                ("entry_count", models.SmallIntegerField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "ledger_transfer",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "kind__in",
                                [
                                    apps.ledger.chart.TransferKind["DEPOSIT"],
                                    apps.ledger.chart.TransferKind["CHARGE"],
                                    apps.ledger.chart.TransferKind["CLAIMED"],
                                    apps.ledger.chart.TransferKind["SETTLE"],
                                ],
                            )
                        ),
                        name="ledger_transfer_kind_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("entry_count__gte", 2)), name="ledger_transfer_two_sides"
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("account_version", models.BigIntegerField()),
                ("amount_atomic", apps.core.fields.AtomicField()),
                ("previous_atomic", apps.core.fields.AtomicField()),
                ("balance_atomic", apps.core.fields.AtomicField()),
                (
                    "account",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="entries",
                        to="ledger.account",
                    ),
                ),
                (
                    "transfer",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="entries",
                        to="ledger.transfer",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "entries",
                "db_table": "ledger_entry",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("account", "account_version"), name="ledger_entry_position"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("amount_atomic", 0), _negated=True), name="ledger_entry_moves"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "balance_atomic",
                                django.db.models.expressions.CombinedExpression(
                                    models.F("previous_atomic"), "+", models.F("amount_atomic")
                                ),
                            )
                        ),
                        name="ledger_entry_adds_up",
                    ),
                ],
            },
        ),
    ]
