"""The database keeps what is signed, charged or final; see sql/kept.sql."""

import re
from pathlib import Path

from django.db import migrations

KEPT = (Path(__file__).parent / "sql" / "kept.sql").read_text()
TRIGGERS = re.findall(r"CREATE TRIGGER (\w+)[^;]*?\bON (\w+)", KEPT)
REVERSE = [f"DROP TRIGGER {trigger} ON {table}" for trigger, table in TRIGGERS]


class Migration(migrations.Migration):
    dependencies = [("payments", "0020_distributions_that_failed")]
    operations = [migrations.RunSQL(KEPT, [*REVERSE, "DROP FUNCTION payments_refuse_rewrite()"])]
