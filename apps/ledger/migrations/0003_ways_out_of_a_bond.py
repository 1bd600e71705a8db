from django.db import migrations, models

import apps.ledger.chart


class Migration(migrations.Migration):
    dependencies = [
        ("ledger", "0002_guards"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="account",
            name="ledger_account_kind_known",
        ),
        migrations.RemoveConstraint(
            model_name="transfer",
            name="ledger_transfer_kind_known",
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
                        ],
                    )
                ),
                name="ledger_account_kind_known",
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
                        ],
                    )
                ),
                name="ledger_transfer_kind_known",
            ),
        ),
    ]
