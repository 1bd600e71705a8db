"""Log lines as JSON objects, one per line, with the same fields as the network's other processes."""

import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

import msgspec

REQUEST_ID: Final[ContextVar[str]] = ContextVar("machpay_gateway_request_id", default="")
"""The id of the request in hand, in every log line and in what is asked of relayer and receiver on its behalf."""


class JsonFormatter(logging.Formatter):
    """`timestamp`, `level`, `logger`, `event`, and `request_id` and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        request_id = REQUEST_ID.get()
        if request_id:
            fields["request_id"] = request_id
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def configure_logging() -> None:
    """Everything to stderr at `LOG_LEVEL` (default INFO)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), handlers=[handler], force=True)
