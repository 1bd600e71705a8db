"""What the receiver refuses.

DomainError
├── NotCloudEvents        400  the body as a whole cannot be read
├── BadRequestHeaders     400  the signing headers are missing or do not parse
├── NotTheSender          401  the signature, its time or its single use is wrong
├── TooManyEvents         413  more events than one request may carry
├── BufferFull            429  the database is behind; try again
└── StorageDown           503  the database cannot be reached; nothing was stored
EventRefused                   one event of a batch; the others are stored
"""

from apps.core.errors import DomainError


class NotCloudEvents(DomainError):
    code = "malformed"
    status = 400


class BadRequestHeaders(DomainError):
    code = "malformed"
    status = 400


class NotTheSender(DomainError):
    code = "invalid_signature"
    status = 401


class TooManyEvents(DomainError):
    code = "too_many_events"
    status = 413


class BufferFull(DomainError):
    code = "receiver_busy"
    status = 429


class StorageDown(DomainError):
    code = "storage_unavailable"
    status = 503


class EventRefused(Exception):
    """One event that will never be stored, and why. Sending it again cannot help."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
