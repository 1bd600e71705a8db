"""Why a stream is refused.

DomainError
├── UnknownTopic        400
├── SignInRequired      401  a private topic without a session
├── TopicNotFound       404  a private topic of somebody else
└── TooManyStreams      429  the address or the process has as many as it may
"""

from apps.core.errors import DomainError


class UnknownTopic(DomainError):
    code = "unknown_topic"
    status = 400


class SignInRequired(DomainError):
    code = "sign_in_required"
    status = 401


class TopicNotFound(DomainError):
    code = "topic_not_found"
    status = 404


class TooManyStreams(DomainError):
    code = "too_many_streams"
    status = 429
