"""The rules that PostgreSQL itself keeps; see sql/guards.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "guards.sql").read_text()
REMOVE = """
DROP FUNCTION ledger_refuse_change, ledger_check_transfers, ledger_check_entries, ledger_check_accounts,
    ledger_check_new_accounts CASCADE
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [migrations.RunSQL(GUARDS, REMOVE)]
