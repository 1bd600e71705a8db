"""The newest receipt of each channel of a hosted gateway."""

import django.db.models.deletion
from django.db import migrations, models

import apps.core.fields


class Migration(migrations.Migration):
    dependencies = [("payments", "0008_batch_guards")]

    operations = [
        migrations.CreateModel(
            name="HostedReceipt",
            fields=[
                (
                    "channel",
                    models.OneToOneField(
                        db_column="channel",
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        serialize=False,
                        to="payments.channel",
                    ),
                ),
                ("digest", models.BinaryField(max_length=32)),
                ("http_status", models.IntegerField()),
                ("charged_atomic", apps.core.fields.AtomicField()),
                ("served_total_atomic", apps.core.fields.AtomicField()),
                ("time", models.BigIntegerField(help_text="Unix seconds.")),
                ("signature", models.BinaryField(max_length=64)),
            ],
            options={"db_table": "payments_hosted_receipt"},
        ),
        migrations.AddConstraint(
            model_name="hostedreceipt",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("charged_atomic__gt", 0),
                    ("charged_atomic__lte", models.F("served_total_atomic")),
                ),
                name="payments_hosted_receipt_charge",
            ),
        ),
    ]
