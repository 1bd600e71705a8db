"""Every stored intent waits for a batch, and what is in one is fixed; see sql/batches.sql."""

from pathlib import Path

from django.db import migrations

GUARDS = (Path(__file__).parent / "sql" / "batches.sql").read_text()
REMOVE = """
DROP FUNCTION payments_queue_for_batch, payments_refuse_leaf_change, payments_check_batch_change CASCADE;
DELETE FROM payments_unbatched
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0007_batches_and_aggregations")]
    operations = [migrations.RunSQL(GUARDS, REMOVE)]
