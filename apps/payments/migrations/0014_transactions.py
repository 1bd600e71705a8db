"""The view `transactions`; see sql/transactions.sql."""

from pathlib import Path

from django.db import migrations

VIEW = (Path(__file__).parent / "sql" / "transactions.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("payments", "0013_custody"), ("telemetry", "0001_initial")]
    operations = [migrations.RunSQL(VIEW, "DROP VIEW transactions")]
