"""The partitioned event tables and how long around now they are kept ready.

An event is stored in the partition of its own time, so that sending it again meets the row already there.
"""

from datetime import timedelta
from typing import Final

from apps.core.partitions import PartitionedTable

EVENT_AGE_MAX: Final = timedelta(days=7)
"""A gateway that was cut off delivers what it kept; events older than this are refused."""
EVENT_AHEAD_MAX: Final = timedelta(minutes=5)
"""How far a sender's clock may be ahead of ours."""

_BEHIND: Final = EVENT_AGE_MAX.days + 1
EVENTS: Final = PartitionedTable("telemetry_events", "day", ahead=7, behind=_BEHIND)
PAYMENTS: Final = PartitionedTable("payment_authorized", "day", ahead=7, behind=_BEHIND)
BLOCKED: Final = PartitionedTable("request_blocked", "day", ahead=7, behind=_BEHIND)
TABLES: Final = (EVENTS, PAYMENTS, BLOCKED)
