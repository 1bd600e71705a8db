"""Nothing is ever added to a stored transfer; see sql/guard_whole_transfers.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "guard_whole_transfers.sql").read_text()
REVERSE = """
DROP TRIGGER ledger_entry_whole ON ledger_entry;
DROP FUNCTION ledger_check_whole_transfers();
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0008_guard_books")]
    operations = [migrations.RunSQL(GUARDS, REVERSE)]
