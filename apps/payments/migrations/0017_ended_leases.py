from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("payments", "0016_vault_terms")]
    operations = [
        migrations.AddIndex(
            model_name="lease",
            index=models.Index(
                condition=models.Q(("state", "LIVE"), _negated=True),
                fields=["ended_at"],
                name="payments_lease_ended",
            ),
        ),
    ]
