"""Leases stay within the bond, whoever writes them; see sql/leases.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "leases.sql").read_text()
REMOVE = """
DROP FUNCTION payments_check_lease, payments_refuse_change, payments_leasable, payments_exposure CASCADE;
ALTER TABLE payments_agent_change DROP COLUMN xid;
"""
COUNT_DAYS = """
INSERT INTO payments_agent_day (agent, day, charged_atomic)
SELECT i.agent, (i.nonce_time AT TIME ZONE 'UTC')::date, sum(i.charged_atomic)
FROM payment_intents i WHERE i.charged_atomic > 0 GROUP BY 1, 2
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0005_leases")]
    operations = [
        migrations.RunSQL(GUARDS, REMOVE),
        migrations.RunSQL(COUNT_DAYS, migrations.RunSQL.noop),
    ]
