"""Logs: one JSON object per line on stderr, from structlog and from the standard library alike.

    log = structlog.get_logger(__name__)
    log.info("settlement_sent", settlement=7)      # an event name and fields, never a formatted sentence

Secrets, signatures of people and request bodies are never logged. That is why tracebacks come without the values of
local variables, where keys and database passwords are.
"""

from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


def logging_config(level: str) -> dict[str, Any]:
    """The dictionary for `logging.config.dictConfig`; also sets structlog up, so call it once per process."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "foreign_pre_chain": list(_SHARED),
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(default=str),
        ],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            # uvicorn set its own text format up before this process read its settings.
            **{name: {"handlers": [], "propagate": True} for name in ("uvicorn", "uvicorn.error")},
            # One line per request to other services or per scheduled task is noise at INFO; failures still show.
            **{
                name: {"level": "WARNING"}
                for name in (
                    "httpx",
                    "httpx2",
                    "httpcore",
                    "uvicorn.access",
                    "celery.app.trace",
                    "celery.beat",
                    "celery.worker.strategy",
                )
            },
        },
    }
