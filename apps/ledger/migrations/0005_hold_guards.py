"""What PostgreSQL itself keeps of holds and books; see sql/hold_guards.sql."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).parent / "sql"
GUARDS = (SQL / "hold_guards.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("ledger", "0004_holds_books_shards")]
    # There is no way back: the rows that these functions explain may exist by then.
    operations = [migrations.RunSQL(GUARDS)]
