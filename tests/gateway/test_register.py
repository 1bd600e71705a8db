"""What `register` tells of itself; that it registers is tried with a real chain and relayer in the end-to-end tests."""

import argparse

import pytest

from machpay_gateway.commands.register import add_register_command, finishing


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], "machpay-gateway register --config gateway.toml --relayer-only"),
        (
            ["--config", "my shop/gateway.toml", "--workers", "4", "--airdrop"],
            "machpay-gateway register --config 'my shop/gateway.toml' --relayer-only --workers 4",
        ),
    ],
)
def test_the_command_that_finishes_is_about_the_same_identities(arguments: list[str], command: str) -> None:
    parser = argparse.ArgumentParser()
    add_register_command(parser.add_subparsers())
    assert finishing(parser.parse_args(["register", *arguments])) == command
