"""Which path costs what: exact paths, patterns, prefixes, methods, and what is refused in a configuration."""

from typing import Any

import pytest

from machpay_gateway.errors import ConfigError, RequestError
from machpay_gateway.routes import Free, Priced, Route, RouteTable


def table(*routes: Route, **options: Any) -> RouteTable:
    return RouteTable(routes, **options)


def price(routes: RouteTable, path: str, method: str = "GET") -> int:
    found = routes.resolve(method, path, path.encode())
    return found.route.price_atomic if isinstance(found, Priced) else 0


def status(routes: RouteTable, path: str, method: str = "GET") -> int:
    with pytest.raises(RequestError) as refused:
        routes.resolve(method, path, path.encode())
    return refused.value.status


SHOP = table(
    Route("GET", "/users/me", price_atomic=1),
    Route("GET", "/users/{id}", match="pattern", price_atomic=2),
    Route("GET", "/users/{id}/reports/{day}", match="pattern", price_atomic=3),
    Route("GET", "/{kind}/{id}/reports/latest", match="pattern", price_atomic=4),
    Route("DELETE", "/users/{name}", match="pattern", price_atomic=5),
    Route("GET", "/users/", match="prefix", price_atomic=6),
    Route("GET", "/users/archive/", match="prefix", price_atomic=7),
    Route("GET", "/free"),
)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/users/me", 1),
        ("/users/42", 2),
        ("/users/ü", 2),
        ("/users/42/reports/monday", 3),
        ("/shops/42/reports/latest", 4),
        ("/users/42/more", 6),
        ("/users/", 6),
        ("/users/archive/1999", 7),
        ("/free", 0),
    ],
)
def test_exact_paths_come_before_patterns_and_patterns_before_prefixes(path: str, wanted: int) -> None:
    assert price(SHOP, path) == wanted


def test_of_two_patterns_the_one_with_fewer_placeholders_wins_in_any_order() -> None:
    routes = [
        Route("GET", "/{a}/{b}", match="pattern", price_atomic=1),
        Route("GET", "/{a}/fixed", match="pattern", price_atomic=2),
    ]
    for order in (routes, routes[::-1]):
        assert price(table(*order), "/x/fixed") == 2
        assert price(table(*order), "/x/other") == 1


def test_a_pattern_takes_its_methods_and_no_others() -> None:
    assert price(SHOP, "/users/42", "DELETE") == 5
    assert price(SHOP, "/users/42", "HEAD") == 2
    assert status(SHOP, "/users/42", "POST") == 405
    assert SHOP.methods_at("/users/42") == ("DELETE", "GET")


def test_a_placeholder_is_one_segment_that_is_not_empty() -> None:
    routes = table(Route("GET", "/a/{x}/b", match="pattern", price_atomic=1))
    for path in ("/a/b", "/a/x/y/b", "/a/x/b/", "/a/x"):
        assert status(routes, path) == 404
    assert status(routes, "/a//b") == 400
    assert price(routes, "/a/x.y+z/b") == 1


def test_text_of_a_pattern_is_not_a_regular_expression() -> None:
    routes = table(Route("GET", "/v1.0/{x}", match="pattern", price_atomic=1))
    assert price(routes, "/v1.0/a") == 1
    assert status(routes, "/v1x0/a") == 404


def test_unlisted_paths_can_be_free_but_not_by_another_method() -> None:
    routes = table(Route("GET", "/a/{x}", match="pattern", price_atomic=1), unlisted="free")
    assert isinstance(routes.resolve("GET", "/b", b"/b"), Free)
    assert status(routes, "/a/1", "PUT") == 405


def test_an_empty_segment_with_parameters_is_an_empty_segment() -> None:
    routes = table(Route("GET", "/dear", price_atomic=1), Route("GET", "/", match="prefix"))
    for path in ("/;/dear", "/;a=b/dear", "/%3b/dear", "/x/;"):
        with pytest.raises(RequestError) as refused:
            routes.resolve("GET", path.replace("%3b", ";"), path.encode())
        assert (refused.value.status, refused.value.code) == (400, "ambiguous_path")
    assert isinstance(routes.resolve("GET", "/x;a=b", b"/x;a=b"), Free)


@pytest.mark.parametrize(
    "route",
    [
        Route("GET", "/plain", match="pattern", price_atomic=1),
        Route("GET", "/a{x}", match="pattern", price_atomic=1),
        Route("GET", "/{x}y/{z}", match="pattern", price_atomic=1),
        Route("GET", "/{}", match="pattern", price_atomic=1),
        Route("GET", "/{a-b}", match="pattern", price_atomic=1),
        Route("GET", "/m", metered=True),
        Route("GET", "/m", price_atomic=1, amount_url="/usage/{digest}"),
        Route("GET", "/m", price_atomic=1, metered=True, amount_url="/usage"),
        Route("GET", "/m", price_atomic=1, metered=True, amount_url="usage/{digest}"),
        Route("TRACE", "/m", price_atomic=1),
        Route("GET", "m", price_atomic=1),
        Route("GET", "/m?x=1", price_atomic=1),
        Route("GET", "/health", price_atomic=1),
        Route("GET", "/a/../b", price_atomic=1),
        Route("GET", "/a/;/b", price_atomic=1),
        Route("GET", "/a/*", price_atomic=1),
        Route("GET", "/a/*", match="prefix", price_atomic=1),
        Route("GET", "/a/{id}", price_atomic=1),
        Route("GET", "/a/{id}/", match="prefix", price_atomic=1),
    ],
)
def test_routes_that_cannot_be_meant_are_refused(route: Route) -> None:
    with pytest.raises(ConfigError, match=r"routes: "):
        table(route)


@pytest.mark.parametrize("match", ["exact", "prefix", "pattern"])
def test_a_route_is_listed_once(match: Any) -> None:
    paths = ("/a/{x}", "/a/{y}") if match == "pattern" else ("/a/", "/a/")
    with pytest.raises(ConfigError, match="listed twice"):
        table(*(Route("GET", path, match=match, price_atomic=1) for path in paths))
