"""One receiver process: HTTP in, transactions out.

`POST /v1/ingest` answers 202 only after the commit: what is acknowledged survives `kill -9`. Other answers store
nothing, except that the events of a batch are judged one by one (`errors` names those that were refused).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from apps.core import asgi
from apps.core.errors import DomainError
from apps.core.problems import CONTENT_TYPE, problem
from apps.telemetry.receiver import metrics
from apps.telemetry.receiver.buffer import Buffer, Submission
from apps.telemetry.receiver.coverage import Coverage
from apps.telemetry.receiver.errors import (
    BadRequestHeaders,
    EventRefused,
    NotTheSender,
    StorageDown,
)
from apps.telemetry.receiver.parse import parse
from apps.telemetry.receiver.publish import Publisher
from apps.telemetry.receiver.replay import ReplayGuard
from apps.telemetry.receiver.route import Event, route
from apps.telemetry.receiver.write import Stored, Writer
from machpay.protocol.errors import MalformedError, SignatureError
from machpay.protocol.signed_requests import RequestSigner, verify_request

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
_UNSTORABLE: Final = EventRefused("invalid_data", "the database cannot hold a value of this event")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Answer:
    """What became of the events of one request, by their place in it."""

    accepted: int
    duplicates: int
    rejected: int
    errors: list[dict[str, Any]]


class Receiver:
    """Routes requests and owns the writer tasks. `parts` come from `asgi`, so that tests can build their own."""

    def __init__(
        self, *, buffer: Buffer, writer: Writer, publisher: Publisher, coverage: Coverage, writers: int
    ) -> None:
        self.buffer = buffer
        self.writer = writer
        self.publisher = publisher
        self.coverage = coverage
        self._replay_guard = ReplayGuard()
        self._writers = writers
        metrics.WAITING_ROWS.set_function(lambda: buffer.rows)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one HTTP request."""
        path, method = scope["path"], scope["method"]
        if path == "/v1/ingest":
            if method != "POST":
                raise asgi.MethodNotAllowed("POST")
            await self._ingest(scope, receive, send)
        elif path == "/health":
            await self._health(send)
        elif path == "/metrics":
            await asgi.respond_metrics(send)
        else:
            raise asgi.NotFound("this process answers /v1/ingest, /health and /metrics")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and publish while inside. Leaving first stores what still waits."""
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(self._write_forever()) for _ in range(self._writers)]
            background.append(tasks.create_task(self.publisher.run()))
            background.append(tasks.create_task(self.coverage.run()))
            try:
                yield
                await self.buffer.drained()
            finally:
                for task in background:
                    task.cancel()

    async def _write_forever(self) -> None:
        while True:
            batch = await self.buffer.take()
            try:
                await self._write(batch)
            finally:
                self.buffer.release(batch)

    async def _write(self, batch: Sequence[Submission]) -> None:
        events = [event for submission in batch for event in submission.events]
        started = time.perf_counter()
        try:
            outcomes = await self.writer.write(events)
        except DomainError as error:
            for submission in batch:
                submission.fail(error)
            return
        except Exception:
            log.exception("batch_failed")
            for submission in batch:
                submission.fail(
                    StorageDown("the events could not be stored; send them again", retry_after_s=2)
                )
            return
        metrics.FLUSH_SECONDS.observe(time.perf_counter() - started)
        metrics.FLUSH_ROWS.observe(len(events))
        position = 0
        for submission in batch:
            end = position + len(submission.events)
            submission.settle(outcomes[position:end])
            position = end
        self.publisher.offer(
            event for event, outcome in zip(events, outcomes, strict=True) if outcome == "new"
        )

    async def _ingest(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            status, answer = await self._store(scope, receive)
        except DomainError as error:
            metrics.REQUESTS.labels(status=error.status).inc()
            raise
        metrics.REQUESTS.labels(status=status).inc()
        if status == 202:
            await asgi.respond_json(send, answer, status=status)
            return
        body = problem(status, "events_refused", "None of the events can be stored.", errors=answer.errors)
        await asgi.respond(send, status, msgspec.json.encode(body), content_type=CONTENT_TYPE)

    async def _store(self, scope: asgi.Scope, receive: asgi.Receive) -> tuple[int, Answer]:
        body = await asgi.read_body(scope, receive, limit=BODY_BYTES_MAX)
        headers = asgi.header_map(scope)
        signer = await self._authenticate(scope, headers, body)
        items = parse(headers, body)
        now = datetime.now(UTC)
        events: list[Event] = []
        places: list[int] = []
        errors: list[dict[str, Any]] = []
        for place, item in enumerate(items):
            try:
                if isinstance(item, EventRefused):
                    raise item
                event = route(item, signer=signer.pubkey, now=now)
                self.coverage.check(event.time)
            except EventRefused as refused:
                event_id = None if isinstance(item, EventRefused) else item.attributes.id
                errors.append(_error(place, event_id, refused))
            else:
                events.append(event)
                places.append(place)
        outcomes = await self._commit(events) if events else []
        for place, event, outcome in zip(places, events, outcomes, strict=True):
            if outcome == "refused":
                errors.append(_error(place, event.id, _UNSTORABLE))
        duplicates = outcomes.count("duplicate")
        answer = Answer(len(items) - len(errors) - duplicates, duplicates, len(errors), errors)
        for outcome, count in (("new", answer.accepted), ("duplicate", duplicates), ("refused", len(errors))):
            metrics.EVENTS.labels(outcome=outcome).inc(count)
        return (400 if items and len(errors) == len(items) else 202), answer

    async def _authenticate(self, scope: asgi.Scope, headers: dict[str, str], body: bytes) -> RequestSigner:
        try:
            signer = verify_request(scope["method"], asgi.target_of(scope), body, headers, now=time.time())
        except MalformedError as error:
            raise BadRequestHeaders(error.detail) from error
        except SignatureError as error:
            raise NotTheSender(error.detail) from error
        if await self._replay_guard.is_replay(signer):
            raise NotTheSender("this signed request was already used; sign every attempt anew")
        return signer

    async def _commit(self, events: Sequence[Event]) -> list[Stored]:
        submission = self.buffer.offer(events)
        return await submission.outcome

    async def _health(self, send: asgi.Send) -> None:
        database, live = await asyncio.gather(self.writer.is_reachable(), self.publisher.is_reachable())
        full = self.buffer.rows >= self.buffer.rows_max
        components: dict[str, dict[str, Any]] = {
            "database": {"status": "ok" if database else "down"},
            "redis": {"status": "ok" if live else "down"},
            "buffer": {
                "status": "degraded" if full else "ok",
                "rows": self.buffer.rows,
                "rows_max": self.buffer.rows_max,
            },
            "partitions": self.coverage.health(),
        }
        healthy = all(component["status"] == "ok" for component in components.values())
        status = "down" if not database else "ok" if healthy else "degraded"
        body = {"status": status, "service": "receiver", "components": components}
        await asgi.respond_json(send, body, status=200 if database else 503)


def _error(place: int, event_id: str | None, refused: EventRefused) -> dict[str, Any]:
    return {"index": place, "id": event_id, "code": refused.code, "detail": refused.detail}
