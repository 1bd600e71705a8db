"""Gateways and agents as the receiver meets them: keys that sign requests over real HTTP."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx

from machpay.protocol.events import BATCH_CONTENT_TYPE, PAYMENT_AUTHORIZED, REQUEST_BLOCKED
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
from tests.support.http import LOCAL

TARGET = "/v1/ingest"


class Sender:
    """One key and what it sends. `kind` is `gateway` or `agent`."""

    def __init__(self, receiver_url: str, kind: str = "gateway") -> None:
        self.key = SigningKey.generate()
        self.receiver_url = receiver_url
        self.source = f"{kind}:{self.key.pubkey}"

    def event(
        self, type_: str = "com.example.anything", data: Any = None, **attributes: Any
    ) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": self.source,
            "type": type_,
            "time": datetime.now(UTC).isoformat(),
            "data": {} if data is None else data,
            **attributes,
        }

    def payment(self, agent: str, **data: Any) -> dict[str, Any]:
        fields = {"agent": agent, "amount": "1500", "charged": "1200", "http_status": 200, **data}
        return self.event(PAYMENT_AUTHORIZED, fields, subject=f"agent:{agent}")

    def blocked(self, **data: Any) -> dict[str, Any]:
        return self.event(REQUEST_BLOCKED, {"reason": "insufficient_bond", **data})

    def post(
        self, body: bytes, content_type: str = BATCH_CONTENT_TYPE, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        signed = sign_request(self.key, "POST", TARGET, body)
        return self.post_as_is(body, {"Content-Type": content_type, **(headers or {}), **signed})

    def post_as_is(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(self.receiver_url + TARGET, content=body, headers=headers, **LOCAL)

    def send(self, *events: dict[str, Any]) -> httpx.Response:
        return self.post(json.dumps(events).encode())


def ago(**duration: float) -> str:
    return (datetime.now(UTC) - timedelta(**duration)).isoformat()
