"""The configuration file: what is accepted, and errors that name the setting."""

from pathlib import Path

import pytest

from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError, RequestError
from machpay_gateway.routes import Free, Priced, Route, RouteTable
from machpay_gateway.settings import load_settings, parse_settings
from tests.gateway.factories import configuration, network

KEY = SigningKey(b"g" * 32)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    text = configuration(tmp_path, key=KEY, solvency="cap_atomic = 7")
    path.write_text(text.replace("lookup_timeout_ms = 10000", ""))
    settings = load_settings(path)
    assert settings.key.pubkey == KEY.pubkey
    assert settings.network == network()
    assert settings.data_dir == tmp_path / "data"
    assert settings.solvency.cap_atomic == 7
    assert settings.solvency.lookup_timeout_ms == 400
    assert settings.upstream.unlisted == "deny"
    assert [route.price_atomic for route in settings.routes.routes] == [1000, 1000, 5000, 1000, 0, 0, 10**12]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('vendor = "', 'vendor = "!', "gateway.vendor"),
        ("port = 0", "port = 70000", "gateway.port"),
        ("port = 0", 'port = "80"', "gateway.port"),
        ("port = 0", "prot = 0", "prot"),
        ('keypair_file = "gateway.json"', 'keypair_file = "none.json"', "gateway.keypair_file"),
        ('data_dir = "data"', "", "data_dir"),
        ('domain = "', 'domain = "0', "network.domain"),
        ('rpc_url = "http://', 'rpc_url = "ftp://', "network.rpc_url"),
        ('rpc_url = "http://', 'rpc_url = "http://[', "network.rpc_url"),
        ('relayer_url = "http://', 'relayer_url = "', "network.relayer_url"),
        (
            'url = "http://127.0.0.1:1"\n\n\n[solvency]',
            'url = "http://u:p@host"\n\n\n[solvency]',
            "upstream.url",
        ),
        ("refresh_s = 0.1", "refresh_s = 0", "solvency.refresh_s"),
        ("refresh_s = 0.1", 'mode = "hopeful"', "solvency.mode"),
        ("price_atomic = 1000", "price_atomic = -1", "price_atomic"),
        ("price_atomic = 1000", "price_atomic = 0.5", "price_atomic"),
        ('path = "/dear"', 'path = "dear"', "dear"),
        ('path = "/dear"', 'path = "/paid"', "listed twice"),
        ('path = "/dear"', 'path = "/health"', "/health"),
        ('path = "/dear"', 'path = "/.well-known/machpay/x"', "/.well-known/machpay/x"),
        ('path = "/dear"', 'path = "/a/../b"', "/a/../b"),
        ('method = "POST"', 'method = "HEAD"', "HEAD"),
        ('match = "prefix"', 'match = "regex"', "match"),
        ("[gateway]", "[gateway", "TOML"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, old: str, new: str, named: str) -> None:
    text = configuration(tmp_path, key=KEY)
    assert old in text
    with pytest.raises(ConfigError, match=named.replace("/", "/").replace(".", r"\.")):
        parse_settings(text.replace(old, new, 1), tmp_path)


def test_a_key_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    text = configuration(tmp_path, key=KEY)
    (tmp_path / "gateway.json").write_bytes(b"\x8e\x00")
    with pytest.raises(ConfigError, match=r"gateway\.keypair_file: .*gateway\.json holds no key"):
        parse_settings(text, tmp_path)


def test_a_file_without_routes_serves_nothing_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="routes"):
        parse_settings(configuration(tmp_path, key=KEY, routes=""), tmp_path)
    open_settings = parse_settings(
        configuration(tmp_path, key=KEY, routes="", upstream='unlisted = "free"'), tmp_path
    )
    assert open_settings.routes.routes == ()


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml")


class TestRoutes:
    table = RouteTable(
        [
            Route("GET", "/a", price_atomic=1),
            Route("GET", "/a/", match="prefix", price_atomic=2),
            Route("GET", "/a/b/", match="prefix", price_atomic=3),
            Route("GET", "/a/b/free", price_atomic=0),
            Route("POST", "/post", price_atomic=4),
        ]
    )

    def price(self, method: str, path: str) -> int:
        offer = self.table.resolve(method, path, path.encode())
        return offer.route.price_atomic if isinstance(offer, Priced) else 0

    def status(
        self, method: str, path: str, raw: bytes | None = None, table: RouteTable | None = None
    ) -> int:
        with pytest.raises(RequestError) as caught:
            (table or self.table).resolve(method, path, raw if raw is not None else path.encode())
        return caught.value.status

    def test_exact_wins_over_prefix_and_longer_prefixes_over_shorter(self) -> None:
        assert self.price("GET", "/a") == 1
        assert self.price("GET", "/a/x") == 2
        assert self.price("GET", "/a/b/x") == 3
        assert self.price("GET", "/a/b/free") == 0

    def test_head_costs_what_get_costs(self) -> None:
        assert self.price("HEAD", "/a/x") == 2

    def test_an_unlisted_path_is_not_found_unless_unlisted_is_free(self) -> None:
        assert self.status("GET", "/c") == 404
        assert RouteTable([], "free").resolve("GET", "/c", b"/c") == Free("unlisted")

    def test_a_listed_path_never_becomes_free_by_another_method(self) -> None:
        table = RouteTable(self.table.routes, "free")
        assert self.status("GET", "/post", table=table) == 405
        assert self.status("HEAD", "/post", table=table) == 405
        assert self.status("DELETE", "/a", table=table) == 405

    @pytest.mark.parametrize(
        ("path", "raw"),
        [
            ("/a/../post", b"/a/../post"),
            ("/a/../post", b"/a/%2e%2e/post"),
            ("/a/./x", b"/a/./x"),
            ("/a/..", b"/a/.."),
            ("/a/..;/post", b"/a/..;/post"),
            ("//a", b"//a"),
            ("/a//x", b"/a//x"),
            ("/a/x/y", b"/a/x%2Fy"),
            ("/a/x\\y", b"/a/x%5cy"),
            ("/a/x\\y", b"/a/x\\y"),
            ("/a/\x00", b"/a/%00"),
        ],
    )
    def test_paths_that_two_servers_may_read_differently_are_refused(self, path: str, raw: bytes) -> None:
        assert self.status("GET", path, raw) == 400
        assert self.status("GET", path, raw, RouteTable([], "free")) == 400

    def test_dots_inside_a_name_are_fine(self) -> None:
        assert self.price("GET", "/a/file..txt") == 2
        assert self.price("GET", "/a/.hidden") == 2
