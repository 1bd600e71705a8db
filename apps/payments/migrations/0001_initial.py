import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import apps.core.fields
from apps.core.partitioned_models import CreatePartitionedModel


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="AgentMirror",
            fields=[
                ("agent", apps.core.fields.PubkeyField(primary_key=True, serialize=False)),
                (
                    "status",
                    models.CharField(
                        choices=[("ACTIVE", "active"), ("SUSPENDED", "suspended"), ("SLASHED", "slashed")],
                        default="ACTIVE",
                        max_length=10,
                    ),
                ),
                ("limit_per_call_atomic", apps.core.fields.AtomicField(null=True)),
                ("limit_per_day_atomic", apps.core.fields.AtomicField(null=True)),
                ("owner", apps.core.fields.PubkeyField(blank=True)),
                ("bond_atomic", apps.core.fields.AtomicField(default=0)),
                ("open_claims_atomic", apps.core.fields.AtomicField(default=0)),
                ("pending_withdrawal_atomic", apps.core.fields.AtomicField(default=0)),
                ("withdrawal_unlock", models.BigIntegerField(default=0, help_text="Unix seconds.")),
                ("forfeited_atomic", apps.core.fields.AtomicField(default=0)),
                (
                    "window_end",
                    models.BigIntegerField(default=0, help_text="Unix seconds; set when slashed."),
                ),
                ("deposited_total_atomic", apps.core.fields.AtomicField(default=0)),
                ("paid_total_atomic", apps.core.fields.AtomicField(default=0)),
                ("withdrawn_total_atomic", apps.core.fields.AtomicField(default=0)),
                ("swept_total_atomic", apps.core.fields.AtomicField(default=0)),
                ("deposits_posted_atomic", apps.core.fields.AtomicField(default=0)),
                ("slot", models.BigIntegerField(default=0)),
                ("first_seen_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "verbose_name": "agent",
                "db_table": "payments_agent",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["ACTIVE", "SUSPENDED", "SLASHED"])),
                        name="payments_agent_status",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("bond_atomic__gte", 0),
                            ("open_claims_atomic__gte", 0),
                            ("pending_withdrawal_atomic__gte", 0),
                            ("forfeited_atomic__gte", 0),
                        ),
                        name="payments_agent_amounts",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("limit_per_call_atomic__isnull", True),
                            ("limit_per_call_atomic__gte", 0),
                            _connector="OR",
                        ),
                        name="payments_agent_limit_per_call",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("limit_per_day_atomic__isnull", True),
                            ("limit_per_day_atomic__gte", 0),
                            _connector="OR",
                        ),
                        name="payments_agent_limit_per_day",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="ChainCursor",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("slot", models.BigIntegerField(default=0)),
                ("applied_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "payments_chain_cursor",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="payments_chain_cursor_single")
                ],
            },
        ),
        migrations.CreateModel(
            name="Gateway",
            fields=[
                ("pubkey", apps.core.fields.PubkeyField(primary_key=True, serialize=False)),
                ("vendor", apps.core.fields.PubkeyField(db_index=True)),
                ("revoked", models.BooleanField(default=False)),
                (
                    "status",
                    models.CharField(
                        choices=[("UNKNOWN", "never reported"), ("UP", "reporting"), ("DOWN", "silent")],
                        default="UNKNOWN",
                        max_length=8,
                    ),
                ),
                ("url", models.CharField(blank=True, max_length=300)),
                ("version", models.CharField(blank=True, max_length=40)),
                ("uptime_seconds", models.BigIntegerField(default=0)),
                ("stats", models.JSONField(default=dict)),
                (
                    "log_seq",
                    models.BigIntegerField(default=0, help_text="Last log position the gateway reported."),
                ),
                ("last_heartbeat_at", models.DateTimeField(null=True)),
                ("first_seen_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "payments_gateway",
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["UNKNOWN", "UP", "DOWN"])),
                        name="payments_gateway_status",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Network",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("domain", apps.core.fields.PubkeyField(help_text="The cluster's genesis hash, base58.")),
                ("program_id", apps.core.fields.PubkeyField()),
                ("mint", apps.core.fields.PubkeyField()),
                ("bound_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "payments_network",
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("id", 1)), name="payments_network_single")
                ],
            },
        ),
        CreatePartitionedModel(
            name="PaymentIntent",
            partition_by="nonce_time",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "nonce_time",
                        "agent",
                        "nonce",
                        "channel",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("nonce_time", models.DateTimeField()),
                ("agent", apps.core.fields.PubkeyField()),
                ("nonce", models.UUIDField()),
                ("channel", apps.core.fields.PubkeyField()),
                ("gateway", apps.core.fields.PubkeyField()),
                ("vendor", apps.core.fields.PubkeyField()),
                ("digest", models.BinaryField(max_length=32)),
                ("amount_atomic", apps.core.fields.AtomicField()),
                ("charged_atomic", apps.core.fields.AtomicField()),
                ("charged_through_atomic", apps.core.fields.AtomicField()),
                ("cumulative_atomic", apps.core.fields.AtomicField()),
                ("deadline", models.BigIntegerField(help_text="Unix seconds.")),
                ("request_hash", models.BinaryField(max_length=32)),
                ("signature", models.BinaryField(max_length=64)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("PENDING", "charged, not settled yet"),
                            ("PROCESSING", "being settled"),
                            ("SETTLED", "settled on chain"),
                            ("REVERSED", "reversed"),
                            ("SLASHED", "paid from a forfeited bond"),
                            ("VOID", "nothing charged"),
                        ],
                        db_collation="C",
                        max_length=10,
                    ),
                ),
                ("http_status", models.IntegerField()),
                ("served_total_atomic", apps.core.fields.AtomicField(null=True)),
                ("served_at", models.DateTimeField(null=True)),
                ("receipt_signature", models.BinaryField(max_length=64, null=True)),
                ("gateway_seq", models.BigIntegerField(help_text="Position in the gateway's log.")),
                ("received_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("settled_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "payment_intents",
                "indexes": [
                    models.Index(
                        condition=models.Q(("status__in", ["PENDING", "PROCESSING"])),
                        fields=["channel", "charged_through_atomic"],
                        name="payment_intents_unsettled",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "status__in",
                                ["PENDING", "PROCESSING", "SETTLED", "REVERSED", "SLASHED", "VOID"],
                            )
                        ),
                        name="payment_intents_status",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("charged_atomic__gte", 0),
                            ("charged_atomic__lte", models.F("amount_atomic")),
                            ("charged_through_atomic__gte", models.F("charged_atomic")),
                        ),
                        name="payment_intents_charge",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("charged_atomic", 0), ("status", "VOID")),
                            models.Q(models.Q(("status", "VOID"), _negated=True), ("charged_atomic__gt", 0)),
                            _connector="OR",
                        ),
                        name="payment_intents_void_is_free",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Settlement",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("vendor", apps.core.fields.PubkeyField(db_index=True)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("PENDING", "stored, not sent"),
                            ("SENT", "sent"),
                            ("CONFIRMED", "in a confirmed block"),
                            ("FINALIZED", "final"),
                            ("FAILED", "failed"),
                            ("UNKNOWN", "outcome unknown"),
                        ],
                        default="PENDING",
                        max_length=10,
                    ),
                ),
                ("signature", models.CharField(db_collation="C", max_length=88, unique=True)),
                ("raw_transaction", models.BinaryField()),
                ("last_valid_block_height", models.BigIntegerField()),
                ("channel_count", models.SmallIntegerField()),
                (
                    "planned_atomic",
                    apps.core.fields.AtomicField(
                        help_text="What the items would pay if every bond covers them."
                    ),
                ),
                (
                    "paid_atomic",
                    apps.core.fields.AtomicField(
                        help_text="What the chain settled; set once that is final.", null=True
                    ),
                ),
                ("slot", models.BigIntegerField(null=True)),
                ("error", models.CharField(blank=True, max_length=200)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("sent_at", models.DateTimeField(null=True)),
                ("send_count", models.IntegerField(default=0)),
                ("confirmed_at", models.DateTimeField(null=True)),
                (
                    "ended_at",
                    models.DateTimeField(help_text="When it became FINALIZED or FAILED.", null=True),
                ),
            ],
            options={
                "db_table": "payments_settlement",
                "indexes": [
                    models.Index(
                        condition=models.Q(("state__in", ["FINALIZED", "FAILED"]), _negated=True),
                        fields=["id"],
                        name="payments_settlement_open",
                    ),
                    models.Index(
                        condition=models.Q(("paid_atomic__isnull", True), ("state", "FINALIZED")),
                        fields=["slot"],
                        name="payments_settlement_unapplied",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("state__in", ["PENDING", "SENT", "CONFIRMED", "FINALIZED", "FAILED", "UNKNOWN"])
                        ),
                        name="payments_settlement_state",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("planned_atomic__gt", 0),
                            models.Q(("paid_atomic__isnull", True), ("paid_atomic__gte", 0), _connector="OR"),
                        ),
                        name="payments_settlement_amounts",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at__isnull", False), ("state__in", ["FINALIZED", "FAILED"])),
                            models.Q(
                                models.Q(("state__in", ["FINALIZED", "FAILED"]), _negated=True),
                                ("ended_at__isnull", True),
                            ),
                            _connector="OR",
                        ),
                        name="payments_settlement_end",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Channel",
            fields=[
                ("address", apps.core.fields.PubkeyField(primary_key=True, serialize=False)),
                ("vendor", apps.core.fields.PubkeyField()),
                ("highest_cumulative_atomic", apps.core.fields.AtomicField(default=0)),
                ("highest_context", models.BinaryField(max_length=16, null=True)),
                ("highest_signature", models.BinaryField(max_length=64, null=True)),
                ("charged_total_atomic", apps.core.fields.AtomicField(default=0)),
                ("charged_count", models.BigIntegerField(default=0)),
                ("void_count", models.BigIntegerField(default=0)),
                ("credited_atomic", apps.core.fields.AtomicField(default=0)),
                ("settled_atomic", apps.core.fields.AtomicField(default=0)),
                ("owed_atomic", apps.core.fields.AtomicField(default=0)),
                ("claim_cumulative_atomic", apps.core.fields.AtomicField(default=0)),
                ("claim_unlock", models.BigIntegerField(default=0, help_text="Unix seconds.")),
                ("slot", models.BigIntegerField(default=0)),
                ("first_payment_at", models.DateTimeField(null=True)),
                ("last_payment_at", models.DateTimeField(null=True)),
                (
                    "unsettled_since",
                    models.DateTimeField(help_text="When the oldest unsettled charge was stored.", null=True),
                ),
                ("settle_failures", models.SmallIntegerField(default=0)),
                (
                    "settle_after",
                    models.DateTimeField(
                        help_text="Not planned before this time, after a failure.", null=True
                    ),
                ),
                ("first_seen_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "agent",
                    models.ForeignKey(
                        db_column="agent",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="channels",
                        to="payments.agentmirror",
                    ),
                ),
                (
                    "gateway",
                    models.ForeignKey(
                        db_column="gateway",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="channels",
                        to="payments.gateway",
                    ),
                ),
                (
                    "in_flight",
                    models.ForeignKey(
                        db_index=False,
                        help_text="The settlement that is under way; the channel is not planned again before it ends.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="payments.settlement",
                    ),
                ),
            ],
            options={
                "db_table": "payments_channel",
            },
        ),
        migrations.CreateModel(
            name="SettlementItem",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("cumulative_atomic", apps.core.fields.AtomicField()),
                ("context", models.BinaryField(max_length=16)),
                ("signature", models.BinaryField(max_length=64)),
                ("up_to_atomic", apps.core.fields.AtomicField()),
                (
                    "settled_before_atomic",
                    apps.core.fields.AtomicField(help_text="The watermark when this was planned."),
                ),
                ("paid_atomic", apps.core.fields.AtomicField(null=True)),
                (
                    "channel",
                    models.ForeignKey(
                        db_column="channel",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="settlement_items",
                        to="payments.channel",
                    ),
                ),
                (
                    "settlement",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="items",
                        to="payments.settlement",
                    ),
                ),
            ],
            options={
                "db_table": "payments_settlement_item",
            },
        ),
        migrations.CreateModel(
            name="Equivocation",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("nonce", models.UUIDField()),
                ("channel_a", apps.core.fields.PubkeyField()),
                ("channel_b", apps.core.fields.PubkeyField()),
                ("evidence", models.JSONField()),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("OPEN", "found"),
                            ("SUBMITTED", "sent to the chain"),
                            ("SLASHED", "agent slashed"),
                            ("DISMISSED", "dismissed"),
                        ],
                        default="OPEN",
                        max_length=10,
                    ),
                ),
                ("found_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "agent",
                    models.ForeignKey(
                        db_column="agent",
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="equivocations",
                        to="payments.agentmirror",
                    ),
                ),
            ],
            options={
                "db_table": "payments_equivocation",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("agent", "nonce", "channel_a", "channel_b"), name="payments_equivocation_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("channel_a__lt", models.F("channel_b"))),
                        name="payments_equivocation_two_channels",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("status__in", ["OPEN", "SUBMITTED", "SLASHED", "DISMISSED"])),
                        name="payments_equivocation_status",
                    ),
                ],
            },
        ),
        migrations.AddIndex(
            model_name="channel",
            index=models.Index(
                condition=models.Q(("in_flight__isnull", True), ("unsettled_since__isnull", False)),
                fields=["unsettled_since"],
                name="payments_channel_due",
            ),
        ),
        migrations.AddIndex(
            model_name="channel",
            index=models.Index(
                condition=models.Q(("in_flight__isnull", False)),
                fields=["in_flight"],
                name="payments_channel_in_flight",
            ),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.UniqueConstraint(fields=("agent", "gateway"), name="payments_channel_pair"),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("highest_cumulative_atomic__gte", 0),
                    ("charged_total_atomic__gte", 0),
                    ("settled_atomic__gte", 0),
                    ("owed_atomic__gte", 0),
                    ("owed_atomic__lte", models.F("settled_atomic")),
                    ("charged_count__gte", 0),
                    ("void_count__gte", 0),
                ),
                name="payments_channel_amounts",
            ),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("credited_atomic__gte", models.F("charged_total_atomic")),
                    ("credited_atomic__gte", models.F("settled_atomic")),
                ),
                name="payments_channel_credit_covers",
            ),
        ),
        migrations.AddConstraint(
            model_name="channel",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("highest_cumulative_atomic", 0),
                    models.Q(("highest_context__isnull", False), ("highest_signature__isnull", False)),
                    _connector="OR",
                ),
                name="payments_channel_voucher_complete",
            ),
        ),
        migrations.AddConstraint(
            model_name="settlementitem",
            constraint=models.UniqueConstraint(
                fields=("settlement", "channel"), name="payments_settlement_item_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="settlementitem",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("cumulative_atomic__gt", 0),
                    ("up_to_atomic__gt", 0),
                    ("settled_before_atomic__gte", 0),
                    models.Q(("paid_atomic__isnull", True), ("paid_atomic__gte", 0), _connector="OR"),
                ),
                name="payments_settlement_item_amounts",
            ),
        ),
    ]
