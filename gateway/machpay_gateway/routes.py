"""Which path costs what. Pure: a table built once from the settings, asked once per request.

A path is matched after percent-decoding, and paths that two servers may read differently (dot segments, segments that
are empty or nothing but `;parameters`, encoded slashes, backslashes) match nothing and are refused: a payment for a
cheap route must not open a dear one because the upstream normalises what the gateway did not.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from machpay_gateway.errors import ConfigError, RequestError

Match = Literal["exact", "pattern", "prefix"]
Unlisted = Literal["deny", "free"]
RouteBinding = Literal["auto", "request"]
"""With `request` a payment is always for one whole request: a body too long to be hashed is refused."""

OWN_PATHS: Final = frozenset({"/health", "/metrics", "/machpay.json"})
"""Answered by the gateway itself, before any route."""
LOOK_UP_PREFIX: Final = "/.well-known/machpay/"
METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_AMBIGUOUS_RAW: Final = re.compile(rb"%2f|%5c|%00|\\", re.IGNORECASE)
_PLACEHOLDER: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_AMBIGUOUS_PATH: Final = re.compile(r"//|/;|/\.\.?(?:[/;]|$)")


@dataclass(frozen=True, slots=True)
class Route:
    """One priced or free path. `price_atomic` 0 is free; `charge_4xx` charges client errors too.

    With `metered` the price is the most that is charged and the upstream names the amount; `amount_url` is a path of
    the upstream that is asked for it, `{digest}` being the payment's.
    """

    method: str
    path: str
    match: Match = "exact"
    price_atomic: int = 0
    description: str = ""
    mime_type: str = ""
    charge_4xx: bool = False
    metered: bool = False
    amount_url: str = ""
    binding: RouteBinding = "auto"
    input_schema: Mapping[str, Any] | None = None
    label: str = field(init=False)
    """How metrics and events name it."""

    def __post_init__(self) -> None:
        label = f"{self.method} {self.path}" + ("*" if self.match == "prefix" else "")
        object.__setattr__(self, "label", label)


@dataclass(frozen=True, slots=True)
class Priced:
    """The request has to be paid for."""

    route: Route


@dataclass(frozen=True, slots=True)
class Free:
    """The request is forwarded without payment. `label` names it in metrics."""

    label: str


class RouteTable:
    """Exact paths before patterns, patterns before prefixes; of several patterns the one with more fixed segments, of
    several prefixes the longest. What a path matches first decides, whatever methods it lists."""

    def __init__(self, routes: Iterable[Route], unlisted: Unlisted = "deny") -> None:
        self.routes = tuple(routes)
        self._unlisted = unlisted
        self._exact: dict[str, dict[str, Route]] = {}
        patterns: dict[str, dict[str, Route]] = {}
        prefixes: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            _check(route)
            table = {"exact": self._exact, "pattern": patterns, "prefix": prefixes}[route.match]
            # Patterns that differ in the names of their placeholders only are the same.
            shape = _PLACEHOLDER.sub("{}", route.path) if route.match == "pattern" else route.path
            methods = table.setdefault(shape, {})
            if route.method in methods:
                raise ConfigError(f"routes: {route.method} {route.path} is listed twice")
            methods[route.method] = route
        self._patterns = [
            (_compile(shape), methods)
            for shape, methods in sorted(patterns.items(), key=lambda item: item[0].split("/").count("{}"))
        ]
        self._prefixes = sorted(prefixes.items(), key=lambda item: -len(item[0]))
        # Most requests are for these, written like this.
        self._plain = {
            (route.method, path.encode()): _offer(route)
            for path, methods in self._exact.items()
            for route in methods.values()
            if path.isascii()
        }

    def resolve(self, method: str, path: str, raw_path: bytes) -> Priced | Free:
        """What a request for `path` (percent-decoded; `raw_path` as received) costs.

        HEAD follows GET. Raises `RequestError`: 400 for an ambiguous path, 404 for one that is not offered, 405 for
        a method that is not.
        """
        offer = self._plain.get((method, raw_path))
        if offer is not None:
            return offer
        if _AMBIGUOUS_RAW.search(raw_path) or _AMBIGUOUS_PATH.search(path):
            raise RequestError(
                400, "ambiguous_path", "the path has dot segments, empty segments or encoded slashes"
            )
        methods = self._methods(path)
        if methods is None:
            if self._unlisted == "free":
                return Free("unlisted")
            raise RequestError(404, "not_found", "this gateway offers nothing at this path")
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if route is None:
            # Never "free" here: a method nobody thought of must not open a path that has a price.
            allowed = ", ".join(sorted({*methods, "OPTIONS"})).encode()
            raise RequestError(
                405, "method_not_allowed", "not offered with this method", ((b"allow", allowed),)
            )
        return _offer(route)

    def is_listed(self, path: str) -> bool:
        """True if some route, priced or free, covers `path`."""
        return self._methods(path) is not None

    def methods_at(self, path: str) -> tuple[str, ...]:
        """The methods offered at `path`, sorted."""
        return tuple(sorted(self._methods(path) or ()))

    def _methods(self, path: str) -> dict[str, Route] | None:
        methods = self._exact.get(path)
        if methods is not None:
            return methods
        for pattern, candidates in self._patterns:
            if pattern.fullmatch(path):
                return candidates
        for prefix, candidates in self._prefixes:
            if path.startswith(prefix):
                return candidates
        return None


def _offer(route: Route) -> Priced | Free:
    return Priced(route) if route.price_atomic else Free(route.label)


def _compile(shape: str) -> re.Pattern[str]:
    """One segment, not empty, for every `{}`."""
    return re.compile("[^/]+".join(re.escape(part) for part in shape.split("{}")))


def _check(route: Route) -> None:
    where = f"routes: {route.method} {route.path}"
    if route.method not in METHODS:
        raise ConfigError(
            f"{where}: method must be one of {', '.join(sorted(METHODS))} (HEAD and OPTIONS follow)"
        )
    if not route.path.startswith("/") or "?" in route.path or "#" in route.path:
        raise ConfigError(f"{where}: path must start with / and hold no query")
    if _AMBIGUOUS_PATH.search(route.path) or "\\" in route.path or "%" in route.path:
        raise ConfigError(f"{where}: path must be written decoded, without dot segments or empty segments")
    if route.path in OWN_PATHS or route.path.startswith(LOOK_UP_PREFIX):
        raise ConfigError(f"{where}: the gateway answers this path itself")
    if not 0 <= route.price_atomic < 2**63:
        raise ConfigError(f"{where}: price_atomic must be a non-negative integer of atomic units")
    if route.match != "pattern" and (route.path.endswith("*") or _PLACEHOLDER.search(route.path)):
        # Taken literally such a path would match nothing that is asked for, and what was meant would have no price.
        raise ConfigError(
            f'{where}: match = "{route.match}" takes this literally; everything below a path is match = "prefix" '
            'without the *, and {name} needs match = "pattern"'
        )
    if route.match == "pattern":
        segments = route.path.split("/")
        if not any(_PLACEHOLDER.fullmatch(segment) for segment in segments):
            raise ConfigError(f"{where}: a pattern needs a segment like {{name}}")
        if any(set(segment) & set("{}") and not _PLACEHOLDER.fullmatch(segment) for segment in segments):
            raise ConfigError(f"{where}: a segment of a pattern is fixed or one {{name}} as a whole")
    if route.metered and not route.price_atomic:
        raise ConfigError(f"{where}: a metered route needs price_atomic as its ceiling")
    if route.amount_url and not (
        route.metered and route.amount_url.startswith("/") and "{digest}" in route.amount_url
    ):
        raise ConfigError(
            f"{where}: amount_url is a path of the upstream with {{digest}}, for metered routes"
        )
    if len(route.description) > 512 or len(route.mime_type) > 128:
        raise ConfigError(
            f"{where}: description may have 512 characters and mime_type 128 (402 headers are small)"
        )
