"""CloudEvents 1.0 over HTTP: batched, structured and binary content mode. Pure functions.

A body that is not CloudEvents at all raises `NotCloudEvents`; what is wrong with one event of a batch is kept
in its place as an `EventRefused`, so that one bad event costs nobody else's.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import unquote

import msgspec

from apps.telemetry.receiver.errors import EventRefused, NotCloudEvents, TooManyEvents

BATCH: Final = "application/cloudevents-batch"
STRUCTURED: Final = "application/cloudevents"
EVENTS_MAX: Final = 1_000
_STANDARD: Final = frozenset(
    ("id", "source", "specversion", "type", "time", "subject", "datacontenttype", "data", "data_base64")
)

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class Attributes(msgspec.Struct):
    """The attributes of an event that the standard names. `time` is required here: it names the partition."""

    id: Name
    source: Name
    type: Name
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    specversion: str = ""
    subject: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    datacontenttype: str | None = None
    data_base64: str | None = None


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One well-formed event. `data` is decoded JSON. `extensions` holds the attributes that the standard does
    not name, and of data that is not JSON the content type and the bytes as they came."""

    attributes: Attributes
    data: Any
    extensions: dict[str, Any]


_decode_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_event = msgspec.json.Decoder(dict[str, Any]).decode


def parse(headers: Mapping[str, str], body: bytes) -> list[CloudEvent | EventRefused]:
    """The events of one request, in order. `headers` has lowercase names."""
    content_type = headers.get("content-type", "").lower()
    if content_type.startswith(BATCH):
        return _parse_batch(content_type, body)
    if content_type.startswith(STRUCTURED):
        _require_json(content_type)
        return [_parse_one(body)]
    if "ce-id" in headers:
        return [_parse_binary(headers, body)]
    raise NotCloudEvents(f"send {BATCH}+json, {STRUCTURED}+json, or one event with ce- headers")


def _require_json(content_type: str) -> None:
    media_type, _, parameters = content_type.partition(";")
    if not media_type.strip().endswith("+json"):
        raise NotCloudEvents(f"{media_type.strip()} is not supported; only the JSON format is")
    if "charset=" in parameters and "charset=utf-8" not in parameters.replace('"', ""):
        raise NotCloudEvents("events must be UTF-8")


def _parse_batch(content_type: str, body: bytes) -> list[CloudEvent | EventRefused]:
    _require_json(content_type)
    try:
        items = _decode_batch(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise NotCloudEvents(f"the body must be a JSON array of events: {error}") from error
    if len(items) > EVENTS_MAX:
        raise TooManyEvents(f"one request carries at most {EVENTS_MAX} events, not {len(items)}")
    return [_parse_one(item) for item in items]


def _parse_one(raw: bytes | msgspec.Raw) -> CloudEvent | EventRefused:
    try:
        return _from_mapping(_decode_event(raw))
    except EventRefused as refused:
        return refused
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return EventRefused("malformed", f"the event cannot be read: {error}")


def _parse_binary(headers: Mapping[str, str], body: bytes) -> CloudEvent | EventRefused:
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")
    }
    event["datacontenttype"] = headers.get("content-type") or None
    if body:
        event["data_base64"] = base64.b64encode(body).decode()
    try:
        return _from_mapping(event)
    except EventRefused as refused:
        return refused


def _from_mapping(event: dict[str, Any]) -> CloudEvent:
    try:
        attributes = msgspec.convert(event, Attributes)
    except msgspec.ValidationError as error:
        raise EventRefused("malformed", f"the event is not a CloudEvent: {error}") from error
    if attributes.specversion != "1.0":
        raise EventRefused("malformed", 'specversion must be "1.0"')
    if "data" in event and attributes.data_base64 is not None:
        raise EventRefused("malformed", "an event has data or data_base64, not both")
    extensions = {name: value for name, value in event.items() if name not in _STANDARD}
    data = event.get("data")
    is_json = _is_json(attributes.datacontenttype)
    if not is_json:
        extensions["datacontenttype"] = attributes.datacontenttype
    if attributes.data_base64 is not None:
        raw = _decode_base64(attributes.data_base64)
        if is_json:
            data = _decode_data(raw)
        else:
            extensions["data_base64"] = attributes.data_base64
    return CloudEvent(attributes, data, extensions)


def _is_json(content_type: str | None) -> bool:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise EventRefused("malformed", f"data_base64 is not base64: {error}") from error


def _decode_data(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EventRefused("malformed", f"the data cannot be read as JSON: {error}") from error
