"""The user: one row per person, known by a username, an email address or a Solana wallet.

Every other app refers to it as `settings.AUTH_USER_MODEL`. Pubkeys of agents and gateways are not users.
"""

from typing import ClassVar

from django.contrib.auth.models import AbstractBaseUser, PermissionsMixin
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone

from apps.accounts.managers import UserManager

WALLET_PATTERN = r"^[1-9A-HJ-NP-Za-km-z]{32,44}$"
USERNAME_PATTERN = r"^[\w.+-]+$"


class Role(models.TextChoices):
    """What the person does on the network. Network staff is `is_staff`, not a role."""

    ARCHITECT = "architect", "Architect (owns agents)"
    OPERATOR = "operator", "Operator (owns vendors)"
    OBSERVER = "observer", "Observer (reads)"


class User(AbstractBaseUser, PermissionsMixin):
    """A person who signs in. At least one of `username`, `email` and `wallet_address` is set.

    A username never holds an `@`, so it cannot be taken for somebody's email address at sign-in; emails are
    kept in lower case, so one address is one user.
    """

    username = models.CharField(max_length=150, unique=True, null=True, blank=True)
    email = models.EmailField(max_length=255, unique=True, null=True, blank=True)
    wallet_address = models.CharField(
        max_length=44, unique=True, null=True, blank=True, help_text="Base58 address of a Solana wallet."
    )
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.OBSERVER)
    is_active = models.BooleanField(default=True, help_text="Clear this instead of deleting a user.")
    is_staff = models.BooleanField(default=False, help_text="Network staff: may use the admin.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "username"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        db_table = "users"
        constraints = (
            models.CheckConstraint(condition=Q(email=Lower("email")), name="users_email_lowercase"),
            models.CheckConstraint(
                condition=~Q(username=None, email=None, wallet_address=None),
                name="users_identified",
                violation_error_message="A user needs a username, an email address or a wallet.",
            ),
            models.CheckConstraint(
                condition=Q(username__regex=USERNAME_PATTERN),
                name="users_username_plain",
                violation_error_message="A username has letters, digits and . + - _ only.",
            ),
            models.CheckConstraint(
                condition=Q(wallet_address__regex=WALLET_PATTERN),
                name="users_wallet_base58",
                violation_error_message="A wallet address is 32 to 44 base58 characters.",
            ),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="users_role_known"),
        )

    def clean(self) -> None:
        super().clean()
        if self.email:
            self.email = self.email.lower()

    def __str__(self) -> str:
        return self.username or self.email or self.wallet_address or f"user {self.pk}"
