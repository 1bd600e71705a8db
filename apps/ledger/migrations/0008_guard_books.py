"""Books are compared transfer by transfer only where a statement touches several; see sql/guard_books.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "guard_books.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("ledger", "0007_guard_plans")]
    operations = [migrations.RunSQL(GUARDS, migrations.RunSQL.noop)]
