"""How users are created and found at sign-in."""

from typing import TYPE_CHECKING, Any

from django.contrib.auth.base_user import BaseUserManager

if TYPE_CHECKING:
    from apps.accounts.models import User


class UserManager(BaseUserManager["User"]):
    """Creates users by any identifier and finds them by username or email."""

    use_in_migrations = True

    def create_user(
        self,
        username: str | None = None,
        email: str | None = None,
        password: str | None = None,
        **fields: Any,
    ) -> "User":
        """A user without rights in the admin. Without a password nobody can sign in with one."""
        user = self.model(username=username or None, email=email or None, **fields)
        user.set_password(password)
        user.full_clean()
        user.save(using=self._db)
        return user

    def create_superuser(
        self,
        username: str | None = None,
        email: str | None = None,
        password: str | None = None,
        **fields: Any,
    ) -> "User":
        """Network staff with every right, who sign in with a password and so need a name to type."""
        if not username and not email:
            raise ValueError("a superuser needs a username or an email address")
        if not password:
            raise ValueError("a superuser needs a password")
        return self.create_user(
            username, email, password, **{**fields, "is_staff": True, "is_superuser": True}
        )

    def get_by_natural_key(self, login: str | None) -> "User":
        """The user who signs in as `login`: an email address if it holds an `@`, else a username."""
        if not login:
            raise self.model.DoesNotExist("nobody signs in without a name")
        if "@" in login:
            return self.get(email=login.lower())
        return self.get(username=login)
