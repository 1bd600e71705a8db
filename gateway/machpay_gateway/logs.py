"""Log lines as JSON objects, one per line, with the same fields as the network's other processes."""

import logging
import os
import sys
from datetime import UTC, datetime

import msgspec


class JsonFormatter(logging.Formatter):
    """`timestamp`, `level`, `logger`, `event`, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields).decode()


def configure_logging() -> None:
    """Everything to stderr at `LOG_LEVEL` (default INFO)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO").upper(), handlers=[handler], force=True)
