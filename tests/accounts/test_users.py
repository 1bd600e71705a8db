"""Users: identified one way at least, found by username or email, and kept sane by the database itself."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from apps.accounts.models import User
from machpay.protocol.keys import SigningKey

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "identity",
    [{"username": "ana"}, {"email": "ana@example.com"}, {"wallet_address": SigningKey.generate().pubkey}],
)
def test_any_one_identity_is_enough(identity: dict[str, str]) -> None:
    user = User.objects.create_user(**identity)
    assert str(user) == next(iter(identity.values()))
    assert (user.role, user.is_staff, user.is_superuser) == ("observer", False, False)
    assert not user.has_usable_password()


def test_users_without_the_same_identity_do_not_collide() -> None:
    for _ in range(2):
        User.objects.create_user(wallet_address=SigningKey.generate().pubkey)
    assert User.objects.filter(username=None, email=None).count() == 2


def test_an_email_is_one_address_whatever_its_case() -> None:
    user = User.objects.create_user(email="Ana@Example.COM")
    assert user.email == "ana@example.com"
    assert User.objects.get_by_natural_key("ANA@example.com") == user
    with pytest.raises(ValidationError):
        User.objects.create_user(email="ANA@EXAMPLE.com")


@pytest.mark.parametrize("login", [None, "", "nobody", "nobody@example.com"])
def test_nobody_is_found_by_nothing(login: str | None) -> None:
    User.objects.create_user(wallet_address=SigningKey.generate().pubkey)
    with pytest.raises(User.DoesNotExist):
        User.objects.get_by_natural_key(login)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"username": "looks@like.an-email"},
        {"username": "two words"},
        {"email": "not an address"},
        {"wallet_address": "0OIl" * 10},
        {"wallet_address": "short"},
        {"username": "ana", "role": "king"},
    ],
)
def test_a_bad_identity_is_refused_with_a_reason(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        User.objects.create_user(**fields)
    assert User.objects.count() == 0


@pytest.mark.parametrize(
    "column",
    [
        {"username": None},
        {"username": "looks@like.an-email"},
        {"email": "Upper@Example.com"},
        {"wallet_address": "0OIl" * 10},
        {"role": "king"},
    ],
)
def test_the_database_refuses_what_gets_past_the_service(column: dict[str, Any]) -> None:
    User.objects.create_user(username="ana")
    [(name, value)] = column.items()
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE users SET {name} = %s", [value])


@pytest.mark.parametrize("fields", [{"password": "a-long-password"}, {"username": "root"}])
def test_a_superuser_needs_a_name_and_a_password(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="superuser needs"):
        User.objects.create_superuser(**fields)
    assert User.objects.count() == 0


def test_the_operator_exists_after_the_command_whatever_was_before() -> None:
    for password in ("first-password", "second-password", "second-password"):
        call_command("ensure_operator", username="operator", password=password, verbosity=0)
        user = User.objects.get()
        assert (user.is_staff, user.is_superuser, user.check_password(password)) == (True, True, True)


@pytest.mark.parametrize(
    ("username", "password"), [("", "a-password"), ("operator", ""), ("two words", "a-password")]
)
def test_the_command_makes_no_operator_without_a_name_and_a_password(username: str, password: str) -> None:
    call_command("ensure_operator", username="operator", password="first-password", verbosity=0)
    with pytest.raises(CommandError):
        call_command("ensure_operator", username=username, password=password, verbosity=0)
    assert User.objects.get().check_password("first-password")
