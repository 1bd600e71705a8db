"""Every instruction and account layout of the program, as data.

Accounts stand in the program's order; the two that events need, last of the named ones, are added by `document`. Types
are the IDL's own: a name, or `{"option": ...}`, `{"array": [...]}`, `{"defined": ...}`.
"""

from dataclasses import dataclass
from typing import Any, Final

from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.sysvar import INSTRUCTIONS as INSTRUCTIONS_SYSVAR
from solders.token import ID as TOKEN_PROGRAM_ID

Type = str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """One account of an instruction. `seeds` are texts for constants and `$path` for another account's key or field;
    a client then finds the address by itself."""

    name: str
    doc: str = ""
    signer: bool = False
    writable: bool = False
    optional: bool = False
    address: str | None = None
    seeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstructionSpec:
    """One instruction. Accounts and arguments without a place in an IDL are told in `doc`."""

    name: str
    doc: tuple[str, ...]
    accounts: tuple[AccountSpec, ...]
    args: tuple[tuple[str, Type], ...] = ()


def _signer(name: str, doc: str = "", *, writable: bool = False, optional: bool = False) -> AccountSpec:
    return AccountSpec(name, doc, signer=True, writable=writable, optional=optional)


def _writable(name: str, doc: str = "", *seeds: str) -> AccountSpec:
    return AccountSpec(name, doc, writable=True, seeds=seeds)


def _readonly(name: str, doc: str = "", *seeds: str) -> AccountSpec:
    return AccountSpec(name, doc, seeds=seeds)


GLOBAL_BOND: Final = _readonly("global_bond", 'PDA ["bond", mint]')
AGENT_ACCOUNT: Final = _writable("agent_account", 'PDA ["agent", mint, agent]')
VAULT: Final = _writable("vault", 'PDA ["vault", mint]', "vault", "$global_bond.mint")
TOKENS: Final = AccountSpec("token_program", address=str(TOKEN_PROGRAM_ID))
SYSTEM: Final = AccountSpec("system_program", address=str(SYSTEM_PROGRAM_ID))
SYSVAR: Final = AccountSpec("instructions", "the instructions sysvar", address=str(INSTRUCTIONS_SYSVAR))
VENDOR_PAYOUT: Final = _writable("vendor_token_account", "the vendor's payout account")
OWN_VENDOR: Final = ("vendor", "$authority")

DESCRIPTION_ARGS: Final[tuple[tuple[str, Type], ...]] = (("price", "u64"), ("metadata_uri", "string"))

INSTRUCTIONS: Final = (
    InstructionSpec(
        "initialize_bond",
        ("Create GlobalBond and vault of one mint.",),
        (
            _signer("payer", writable=True),
            _signer("authority", "the program's upgrade authority"),
            _readonly("program_data", "the program's ProgramData account"),
            _readonly("mint", "of classic SPL Token"),
            _writable("global_bond", "", "bond", "$mint"),
            _writable("vault", "", "vault", "$mint"),
            TOKENS,
            SYSTEM,
        ),
        (
            ("admin", "pubkey"),
            ("relayer", "pubkey"),
            ("treasury", "pubkey"),
            ("domain", "pubkey"),
            ("min_bond", "u64"),
            ("timelock", "i64"),
            ("claim_delay", "i64"),
            ("agent_bond_cap", "u64"),
            ("reporter_bps", "u16"),
            ("allow_list", "bool"),
        ),
    ),
    InstructionSpec(
        "set_config",
        ("Change the configuration; what is null stays. A new admin is proposed only.",),
        (_writable("global_bond", 'PDA ["bond", mint]'), _signer("admin")),
        (
            ("pending_admin", {"option": "pubkey"}),
            ("relayer", {"option": "pubkey"}),
            ("treasury", {"option": "pubkey"}),
            ("min_bond", {"option": "u64"}),
            ("timelock", {"option": "i64"}),
            ("claim_delay", {"option": "i64"}),
            ("agent_bond_cap", {"option": "u64"}),
            ("reporter_bps", {"option": "u16"}),
            ("deposits_paused", {"option": "bool"}),
            ("allow_list", {"option": "bool"}),
        ),
    ),
    InstructionSpec(
        "accept_admin",
        ("Become admin after being proposed.",),
        (_writable("global_bond", 'PDA ["bond", mint]'), _signer("pending_admin")),
    ),
    InstructionSpec(
        "deposit_bond",
        (
            "Put tokens on an agent's bond. The first deposit opens the account, is signed by the agent and names the",
            "owner; later ones pass the same owner or the zero key. To add to a stranger's bond, clear the agent's",
            "signer flag; while a withdrawal is pending only the agent or the owner may add.",
        ),
        (
            _writable("agent_account", "", "agent", "$global_bond.mint", "$agent"),
            GLOBAL_BOND,
            VAULT,
            _writable("agent_token_account", "where the tokens come from"),
            _signer("authority", "the source's owner or delegate"),
            _signer("payer", "pays the rent of a new account", writable=True),
            _signer("agent", "the key that signs vouchers"),
            _signer("approver", "the admin, on a first deposit while the allow-list is on", optional=True),
            TOKENS,
            SYSTEM,
        ),
        (("amount", "u64"), ("owner", "pubkey")),
    ),
    InstructionSpec(
        "request_withdrawal",
        ("Announce that part of a bond is to leave.",),
        (AGENT_ACCOUNT, GLOBAL_BOND, _signer("authority", "the agent key or the owner")),
        (("amount", "u64"),),
    ),
    InstructionSpec(
        "cancel_withdrawal",
        ("Take a withdrawal request back.",),
        (AGENT_ACCOUNT, GLOBAL_BOND, _signer("authority", "the owner")),
    ),
    InstructionSpec(
        "withdraw_bond",
        ("Execute a withdrawal request after its timelock.",),
        (
            AGENT_ACCOUNT,
            GLOBAL_BOND,
            VAULT,
            _writable("agent_token_account", "where the tokens go; belongs to the owner"),
            _signer("authority", "the agent key or the owner"),
            TOKENS,
        ),
    ),
    InstructionSpec(
        "register_vendor",
        ("Say where a vendor is paid.",),
        (
            _writable("vendor_account", "", *OWN_VENDOR),
            _signer("authority", "the vendor's key"),
            _signer("payer", writable=True),
            GLOBAL_BOND,
            _readonly("vendor_token_account", "the payout account"),
            SYSTEM,
        ),
        DESCRIPTION_ARGS,
    ),
    InstructionSpec(
        "update_vendor",
        ("Change where a vendor is paid and how it describes itself.",),
        (
            _writable("vendor_account", "", *OWN_VENDOR),
            _signer("authority", "the vendor's key"),
            GLOBAL_BOND,
            _readonly("vendor_token_account", "the payout account from now on"),
        ),
        DESCRIPTION_ARGS,
    ),
    InstructionSpec(
        "register_gateway",
        ("Bind a gateway key to a vendor for ever.",),
        (
            _writable("gateway_account", "", "gateway", "$gateway"),
            _signer("gateway"),
            _readonly("vendor_account", "", *OWN_VENDOR),
            _signer("authority", "the vendor's key"),
            _signer("payer", writable=True),
            SYSTEM,
        ),
    ),
    InstructionSpec(
        "revoke_gateway",
        ("Revoke a gateway key for ever.",),
        (_writable("gateway_account", 'PDA ["gateway", gateway]'), _signer("authority", "the vendor's key")),
    ),
    InstructionSpec(
        "settle_cumulative",
        (
            "Pay one vendor what its channels authorised. The data go on with one u64 per channel, up_to, without a",
            "length prefix, which an IDL cannot say: append them. Remaining accounts: per channel the writable channel",
            "and agent_account; if created is not 0, system_program and one gateway_account per bit. The Ed25519",
            "precompile instruction with the vouchers stands right before.",
        ),
        (
            _signer("relayer", writable=True),
            GLOBAL_BOND,
            VAULT,
            _readonly("vendor_account"),
            VENDOR_PAYOUT,
            TOKENS,
            SYSVAR,
        ),
        (("created", "u8"),),
    ),
    InstructionSpec(
        "settle_aggregated",
        (
            "Move what one agent authorised on many channels into what they are owed. The data go on with one u64 per",
            "channel, cumulative, without a length prefix. Remaining accounts: the writable channels, ascending. The",
            "Ed25519 precompile instruction with the aggregated voucher stands right before.",
        ),
        (_signer("relayer"), GLOBAL_BOND, AGENT_ACCOUNT, SYSVAR),
    ),
    InstructionSpec(
        "distribute",
        ("Pay a vendor what is owed on its channels: the remaining accounts, writable.",),
        (GLOBAL_BOND, VAULT, _readonly("vendor_account"), VENDOR_PAYOUT, TOKENS),
    ),
    InstructionSpec(
        "claim_cumulative",
        (
            "Ask for what a voucher authorises without the relayer. The Ed25519 precompile instruction with the",
            "voucher stands right before.",
        ),
        (
            _signer("claimant", "the channel's vendor, or its gateway while not revoked"),
            _signer("payer", "pays the rent of a new channel", writable=True),
            GLOBAL_BOND,
            _writable("channel", 'PDA ["channel", domain, mint, agent, gateway]'),
            AGENT_ACCOUNT,
            _readonly("gateway_account"),
            _readonly("vendor_account", "the gateway's vendor"),
            SYSVAR,
            SYSTEM,
        ),
    ),
    InstructionSpec(
        "execute_claim",
        ("Pay a claim whose delay has passed.",),
        (
            GLOBAL_BOND,
            VAULT,
            _readonly("vendor_account"),
            VENDOR_PAYOUT,
            _writable("channel"),
            AGENT_ACCOUNT,
            TOKENS,
        ),
    ),
    InstructionSpec(
        "commit_batch",
        ("Anchor a Merkle root over payments.",),
        (
            _signer("relayer", writable=True),
            _writable("global_bond", 'PDA ["bond", mint]'),
            _writable("batch", 'PDA ["batch", mint, batch_sequence u64]'),
            SYSTEM,
        ),
        (("root", {"array": ["u8", 32]}), ("leaf_count", "u64"), ("total", "u64")),
    ),
    InstructionSpec(
        "slash_equivocation",
        (
            "Prove that an agent signed two payments under one nonce on two channels. The Ed25519 precompile",
            "instruction with the two vouchers stands right before.",
        ),
        (_signer("reporter"), GLOBAL_BOND, AGENT_ACCOUNT, SYSVAR),
        (
            ("nonce", {"array": ["u8", 16]}),
            ("first", {"defined": {"name": "SignedPayment"}}),
            ("second", {"defined": {"name": "SignedPayment"}}),
        ),
    ),
    InstructionSpec(
        "sweep_forfeited",
        ("Pay out what vendors left of a forfeited bond, after the slashing window.",),
        (
            GLOBAL_BOND,
            VAULT,
            AGENT_ACCOUNT,
            _writable("reporter_token_account", "belongs to the reporter"),
            _writable("treasury_token_account", "belongs to the treasury"),
            TOKENS,
        ),
    ),
)

# Structures that only instructions use.
ARGUMENT_TYPES: Final[dict[str, tuple[tuple[str, Type], ...]]] = {
    "SignedPayment": (
        ("gateway", "pubkey"),
        ("amount", "u64"),
        ("deadline", "i64"),
        ("request_hash", {"array": ["u8", 32]}),
    ),
}


def _bytes(length: int) -> Type:
    return {"array": ["u8", length]}


# Account layouts after the discriminator, without gaps: padding and reserved bytes are fields too.
ACCOUNTS: Final[dict[str, tuple[tuple[str, Type], ...]]] = {
    "GlobalBond": (
        ("version", "u8"),
        ("bump", "u8"),
        ("decimals", "u8"),
        ("deposits_paused", "u8"),
        ("allow_list", "u8"),
        ("vault_bump", "u8"),
        ("reporter_bps", "u16"),
        ("mint", "pubkey"),
        ("vault", "pubkey"),
        ("admin", "pubkey"),
        ("pending_admin", "pubkey"),
        ("relayer", "pubkey"),
        ("treasury", "pubkey"),
        ("domain", "pubkey"),
        ("min_bond", "u64"),
        ("timelock", "i64"),
        ("claim_delay", "i64"),
        ("agent_bond_cap", "u64"),
        ("batch_sequence", "u64"),
        ("batch_head", _bytes(32)),
        ("event_authority_bump", "u8"),
        ("reserved", _bytes(135)),
    ),
    "AgentAccount": (
        ("version", "u8"),
        ("bump", "u8"),
        ("slashed", "u8"),
        ("padding", _bytes(5)),
        ("agent", "pubkey"),
        ("mint", "pubkey"),
        ("owner", "pubkey"),
        ("bond", "u64"),
        ("open_claims", "u64"),
        ("pending_withdrawal", "u64"),
        ("withdrawal_unlock", "i64"),
        ("forfeited", "u64"),
        ("reporter", "pubkey"),
        ("reporter_set_aside", "u64"),
        ("window_end", "i64"),
        ("deposited_total", "u64"),
        ("paid_total", "u64"),
        ("withdrawn_total", "u64"),
        ("swept_total", "u64"),
        ("reserved", _bytes(56)),
    ),
    "VendorAccount": (
        ("version", "u8"),
        ("bump", "u8"),
        ("metadata_uri_length", "u16"),
        ("padding", _bytes(4)),
        ("authority", "pubkey"),
        ("mint", "pubkey"),
        ("payout", "pubkey"),
        ("price", "u64"),
        ("metadata_uri", _bytes(128)),
        ("reserved", _bytes(64)),
    ),
    "GatewayAccount": (
        ("version", "u8"),
        ("bump", "u8"),
        ("revoked", "u8"),
        ("padding", _bytes(5)),
        ("gateway", "pubkey"),
        ("vendor", "pubkey"),
        ("registered_at", "i64"),
        ("revoked_at", "i64"),
        ("reserved", _bytes(32)),
    ),
    "Channel": (
        ("version", "u8"),
        ("bump", "u8"),
        ("padding", _bytes(6)),
        ("agent", "pubkey"),
        ("gateway", "pubkey"),
        ("vendor", "pubkey"),
        ("mint", "pubkey"),
        ("settled", "u64"),
        ("owed", "u64"),
        ("claim_cumulative", "u64"),
        ("claim_unlock", "i64"),
        ("reserved", _bytes(32)),
    ),
    "Batch": (
        ("version", "u8"),
        ("bump", "u8"),
        ("padding", _bytes(6)),
        ("mint", "pubkey"),
        ("sequence", "u64"),
        ("root", _bytes(32)),
        ("leaf_count", "u64"),
        ("total", "u64"),
        ("head", _bytes(32)),
        ("committed_at", "i64"),
        ("reserved", _bytes(32)),
    ),
}
