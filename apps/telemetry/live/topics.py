"""Which topics a request asks for, and whether its user may watch them."""

from typing import Final, Protocol
from urllib.parse import parse_qs

from apps.core import live
from apps.telemetry.live.errors import SignInRequired, TopicNotFound, UnknownTopic

TOPICS_MAX: Final = 32


class Viewer(Protocol):
    """The session's user."""

    pk: int | None
    is_authenticated: bool
    is_active: bool
    is_staff: bool


def requested(query_string: bytes) -> frozenset[str]:
    """The topics of `?topics=a,b`; the public ones if it names none. Raises `UnknownTopic`."""
    values = parse_qs(query_string.decode("latin-1")).get("topics", [])
    names = frozenset(name for value in values for name in value.split(",") if name)
    if len(names) > TOPICS_MAX:
        raise UnknownTopic(f"one stream carries at most {TOPICS_MAX} topics")
    for name in sorted(names):
        if not live.is_topic(name):
            known = ", ".join(
                (*sorted(live.PUBLIC_TOPICS), "user:{id}", "vendor:{gateway}", "agent:{pubkey}")
            )
            raise UnknownTopic(f"{name[:64]!r} is not a topic; there are {known}")
    return names or live.PUBLIC_TOPICS


def authorize(viewer: Viewer, topics: frozenset[str]) -> None:
    """Public topics are everybody's; network staff sees all; a user sees `user:{their id}`."""
    private = topics - live.PUBLIC_TOPICS
    if not private or (viewer.is_staff and viewer.is_active):
        return
    if not viewer.is_authenticated:
        raise SignInRequired("sign in to watch private topics")
    if private - {f"user:{viewer.pk}"}:
        raise TopicNotFound("there is no such topic, or it is not yours")
