"""Every process writes JSON lines, whatever library wrote the message."""

import json
import subprocess
import sys

PROGRAM = """
import logging, logging.config, structlog
from uvicorn import Config
Config("x:y")
from apps.core.context import bind_request_id
from apps.core.logging import logging_config
logging.config.dictConfig(logging_config("info"))
bind_request_id("trace-1")
structlog.get_logger("ours").info("settlement_sent", settlement=7)
logging.getLogger("library").warning("took %d s", 3)
logging.getLogger("uvicorn.error").info("started")
logging.getLogger("library").debug("not at this level")
try:
    password = "hunter2"
    1 / 0
except ZeroDivisionError:
    structlog.get_logger("ours").exception("failed")
"""


def test_every_line_is_json_with_the_request_id():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]

    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("ours", "info", "settlement_sent"),
        ("library", "warning", "took 3 s"),
        ("uvicorn.error", "info", "started"),
        ("ours", "error", "failed"),
    ]
    assert lines[0]["settlement"] == 7
    assert {line["request_id"] for line in lines} == {"trace-1"}
    assert lines[3]["exception"][0]["exc_type"] == "ZeroDivisionError"
    assert lines[3]["exception"][0]["frames"][0]["name"] == "<module>"


def test_a_traceback_tells_no_local_variables():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert "ZeroDivisionError" in done.stderr
    assert "hunter2" not in done.stderr
