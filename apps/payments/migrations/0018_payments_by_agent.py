from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("payments", "0017_ended_leases")]
    operations = [
        migrations.AddIndex(
            model_name="paymentintent",
            index=models.Index(fields=["agent", "nonce_time"], name="payment_intents_agent"),
        ),
    ]
