"""`manage.py attribute_deposit ID --user U --by STAFF --note "why"`: credit a deposit that named nobody."""

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.arguments import words
from apps.core.errors import DomainError
from apps.core.money import format_usdc
from apps.payments.services.custody import attribute_deposit
from apps.payments.services.network import bound_network


class Command(BaseCommand):
    help = "Credit an unclaimed custodial deposit to a user. Who decided it and why is kept with it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("deposit", type=int, help="the deposit's number in the admin")
        parser.add_argument("--user", type=int, required=True, help="id of the user to credit")
        parser.add_argument("--by", required=True, help="username of the staff member who decided it")
        parser.add_argument("--note", type=words(300), required=True, help="why")

    def handle(self, *, deposit: int, user: int, by: str, note: str, **_options: object) -> None:
        staff = get_user_model().objects.filter(username=by, is_staff=True).first()
        if staff is None:
            raise CommandError(f"{by} is not a staff member")
        network = bound_network()
        if network is None:
            raise CommandError("this database belongs to no network yet")
        try:
            row = attribute_deposit(deposit, user_id=user, by_id=staff.pk, note=note, mint=str(network.mint))
        except DomainError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{format_usdc(row.amount_atomic)} USDC credited to user {user}")
