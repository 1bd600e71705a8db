"""Routes as they may be shown to everybody."""

import re
from typing import Final

_SEGMENTS_MAX: Final = 4
_LENGTH_MAX: Final = 80
# Numbers, UUIDs, long hex and base58: parts of a path that name one thing.
_IDENTIFIER = re.compile(r"[0-9]+|[0-9a-f-]{16,}|[1-9A-HJ-NP-Za-km-z]{32,}", re.IGNORECASE)


def route_class(route: str | None) -> str | None:
    """A route without what identifies one request: `GET /users/812/posts?x=1` is `GET /users/:id/posts`."""
    if route is None:
        return None
    segments = route.partition("?")[0].split("/")
    shown = [":id" if _IDENTIFIER.fullmatch(segment) else segment for segment in segments]
    return "/".join(shown[: _SEGMENTS_MAX + 1])[:_LENGTH_MAX]
