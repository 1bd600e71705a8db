"""What PostgreSQL itself keeps of payouts; see sql/payout_guards.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "payout_guards.sql").read_text()
REMOVE = "DROP FUNCTION payouts_check_change, payout_attempts_check_change, payouts_refuse_delete CASCADE"


class Migration(migrations.Migration):
    dependencies = [("vendors", "0001_payouts")]
    operations = [migrations.RunSQL(GUARDS, REMOVE)]
