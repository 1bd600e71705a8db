"""The same guards, written so that no plan reads history; see sql/guard_plans.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "guard_plans.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("ledger", "0006_uncollected")]
    operations = [migrations.RunSQL(GUARDS, migrations.RunSQL.noop)]
