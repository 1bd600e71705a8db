"""docker-compose.yml, Dockerfile and .env.example against the code: no engine runs here, so every word is checked."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {
    name: service
    for name, service in COMPOSE["services"].items()
    if service.get("image") == "machpay/network"
}
PROVIDED_BY_COMPOSE = {"POSTGRES_PASSWORD"}


def variables_read_by_settings() -> set[str]:
    source = (ROOT / "machpay_site" / "settings.py").read_text() + (
        ROOT / "machpay_site" / "env.py"
    ).read_text()
    calls = re.findall(r"(?:env\.)?(?:text|integer|number|boolean|words)\(([^)]*)", source)
    names = {name for call in calls for name in re.findall(r'"([A-Z][A-Z0-9_]+)"', call)}
    return names | {"MACHPAY_PROFILE"}


def example_variables() -> set[str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return {line.split("=")[0] for line in lines if line and not line.startswith("#")}


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


def resolve_target(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_command(command: list[str]) -> None:
    """Every word of a command must exist in this tree."""
    match command:
        case ["python", "manage.py", name, *_]:
            assert name in get_commands()
        case ["granian" | "uvicorn", *rest]:
            target = next(word for word in rest if re.fullmatch(r"[\w.]+:\w+", word))
            assert callable(resolve_target(target))
        case ["celery", "-A", package, "worker" | "beat", *_]:
            assert importlib.import_module(package).__name__ == package
            importlib.import_module(f"{package}.celery")
        case _:
            pytest.fail(f"unknown command {command}")


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    check_command(OURS[name]["command"])


@pytest.mark.parametrize("name", sorted(n for n, s in OURS.items() if "ports" in s))
def test_published_ports_are_loopback_and_match_the_command(name: str) -> None:
    for published in OURS[name]["ports"]:
        host, _outer, inner = published.rsplit(":", 2)
        assert host == "127.0.0.1"
        assert option(OURS[name]["command"], "--port") == inner


def test_streams_are_limited_by_the_address_of_the_browser_behind_the_proxy() -> None:
    trusted = option(OURS["live"]["command"], "--forwarded-allow-ips")
    proxies = ProxyHeadersMiddleware(lambda *_: None, trusted_hosts=trusted).trusted_hosts  # type: ignore[arg-type]
    # The browser, then what it wrote itself in front; the proxy reaches the container from Docker's bridge.
    address = proxies.get_trusted_client_address("203.0.113.9, 198.51.100.7")
    assert "172.18.0.1" in proxies
    assert "198.51.100.7" not in proxies
    assert address[0] == "198.51.100.7"


def test_no_two_services_publish_one_port() -> None:
    outer = [
        p.rsplit(":", 2)[1] for service in COMPOSE["services"].values() for p in service.get("ports", [])
    ]
    assert len(outer) == len(set(outer))


def test_every_variable_that_compose_sets_is_read_by_the_settings() -> None:
    known = variables_read_by_settings() | {"STATIC_ROOT"}
    for name, service in OURS.items():
        assert set(service.get("environment", {})) <= known, name


def test_the_example_names_only_variables_that_are_read() -> None:
    # Gateways and agents read the two addresses; the network's own processes publish them.
    addresses = {"MACHPAY_RELAYER_URL", "MACHPAY_RECEIVER_URL"}
    assert example_variables() - addresses - PROVIDED_BY_COMPOSE <= variables_read_by_settings()


def test_the_example_names_every_variable_without_a_default() -> None:
    source = (ROOT / "machpay_site" / "settings.py").read_text()
    required = {
        name
        for name, rest in re.findall(r'env\.text\("([A-Z_]+)"([^)]*)\)', source)
        if "default=" not in rest
    }
    assert required == {"DJANGO_SECRET_KEY", "DATABASE_URL", "REDIS_URL"}
    assert required <= example_variables()


def test_substituted_variables_have_a_message_when_missing() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name, rest in re.findall(r"\$\{([A-Z_]+)([^}]*)\}", text):
        assert name in PROVIDED_BY_COMPOSE & example_variables()
        assert rest.startswith(":?")


def test_dependencies_and_volumes_are_declared() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        sources = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {source for source in sources if not source.startswith("./")} <= set(COMPOSE["volumes"])


KEYS = {
    "RELAYER_KEYPAIR": ("worker", "recon/relayer.json"),
    "CUSTODY_KEYPAIR": ("worker", "recon/custody.json"),
    "FACILITATOR_KEYPAIR": ("relayer", "facilitator/facilitator.json"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_key_reaches_the_service_that_signs_with_it_and_no_other(name: str) -> None:
    service, file = KEYS[name]
    folder, _, base = file.partition("/")
    mount = f"./secrets/{folder}:/run/secrets:ro"
    assert [each for each in OURS if mount in OURS[each].get("volumes", [])] == [service]
    example = (ROOT / ".env.example").read_text()
    assert f"/run/secrets/{base}" in example
    assert f"secrets/{folder}/{base}" in (ROOT / "docs" / "operations" / "deployment.md").read_text()


def test_the_example_points_at_keys_that_are_mounted() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    paths = {line.split("=")[1] for line in lines if re.match(r"[A-Z]+_KEYPAIR=.", line)}
    assert paths <= {f"/run/secrets/{file.split('/')[1]}" for _, file in KEYS.values()}


def test_the_image_copies_paths_that_exist() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
    assert copies
    for line in copies:
        *sources, _destination = shlex.split(line)
        for source in sources:
            assert (ROOT / source).exists(), source


def test_the_image_holds_every_package_that_the_settings_install() -> None:
    from django.conf import settings

    copied = set(re.findall(r"^COPY (\S+) ", DOCKERFILE, re.M))
    roots = {app.split(".")[0] for app in settings.INSTALLED_APPS if app.startswith("apps.")}
    assert roots | {"machpay_site", "templates", "static", "sdk"} <= copied


def test_the_packages_left_out_of_the_image_are_pinned_and_not_imported_by_it() -> None:
    (pattern,) = re.findall(r"grep -vE '\^\(([^)]*)\)=='", DOCKERFILE)
    pinned = (ROOT / "requirements.txt").read_text()
    sources = [
        p for folder in ("apps", "machpay_site", "contracts/localnet") for p in (ROOT / folder).rglob("*.py")
    ]
    for package in pattern.split("|"):
        assert re.search(rf"^{package}==", pinned, re.M), package
        module = package.replace("-", "_")
        assert not [p for p in sources if re.search(rf"^\s*(import|from) {module}\b", p.read_text(), re.M)]


def test_the_image_default_command_exists_and_listens_where_it_says() -> None:
    (command,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.M)
    words = yaml.safe_load(command)
    check_command(words)
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.M)
    assert option(words, "--port") == exposed
