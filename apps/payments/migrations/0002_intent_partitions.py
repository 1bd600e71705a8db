"""Partitions around today, so that intents can be stored as soon as the table exists."""

from django.db import migrations

from apps.core.partitioned_models import CreatePartitions
from apps.core.partitions import PartitionedTable


class Migration(migrations.Migration):
    dependencies = [("payments", "0001_initial")]
    operations = [CreatePartitions(PartitionedTable("payment_intents", "month", ahead=3, behind=3))]
