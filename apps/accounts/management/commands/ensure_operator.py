"""`manage.py ensure_operator`: a staff account that exists afterwards, whatever was there before."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from apps.accounts.models import User


class Command(BaseCommand):
    help = "Create a superuser for operators, or set the password of the one with this username."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--username", required=True)
        parser.add_argument("--password", required=True)

    def handle(self, *, username: str, password: str, **_options: Any) -> None:
        # An operator without a password would be everybody.
        if not username or not password:
            raise CommandError("an operator needs a username and a password")
        with transaction.atomic():
            user = User.objects.select_for_update().filter(username=username).first() or User(
                username=username
            )
            created = user.pk is None
            user.is_staff = user.is_superuser = True
            if created or not user.check_password(password):
                user.set_password(password)
            try:
                user.full_clean()
            except ValidationError as error:
                raise CommandError("; ".join(error.messages)) from error
            user.save()
        self.stdout.write(f"operator {username} {'created' if created else 'is ready'}")
