//! The program's numbered errors. A number is published for ever: it is never reused for another meaning.

use pinocchio::error::ProgramError;

pub type Result<T = ()> = core::result::Result<T, Error>;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why an instruction was refused. `Runtime` passes on an error of the runtime or of pinocchio.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Error {
            $($(#[$doc])* $name,)*
            Runtime(ProgramError),
        }

        impl Error {
            /// Number, name and sentence of every error, in the order of their numbers.
            pub const ALL: &'static [(u32, &'static str, &'static str)] = &[
                $(($code, stringify!($name), $text),)*
            ];

            /// Write the error's sentence to the transaction log.
            #[cold]
            #[inline(never)]
            pub fn log(&self) {
                match self {
                    $(Error::$name => log_line(concat!("MachPay: ", stringify!($name), ": ", $text)),)*
                    Error::Runtime(_) => {}
                }
            }
        }

        impl From<Error> for ProgramError {
            fn from(error: Error) -> ProgramError {
                match error {
                    $(Error::$name => ProgramError::Custom($code),)*
                    Error::Runtime(inner) => inner,
                }
            }
        }
    };
}

errors! {
    InvalidSignature = 0x100, "the Ed25519 instruction does not attest the expected message and signer";
    /// Reserved: deadlines are judged off the chain, where the payment happens.
    ExpiredIntent = 0x101, "the intent's deadline has passed";
    InsufficientBond = 0x102, "the bond does not cover the amount";
    /// Of a voucher where a stale one is refused; `settle_cumulative` skips it instead.
    NonceReplay = 0x103, "the voucher is not above the channel's watermark";
    UnknownInstruction = 0x104, "the instruction's discriminator is not one of this program";
    InvalidInstructionData = 0x105, "the instruction's arguments do not have the documented form";
    WrongAccountCount = 0x106, "the instruction does not have the documented number of accounts";
    MissingSignature = 0x107, "an account that must sign did not sign";
    WrongAccountOwner = 0x108, "an account belongs to another program than it must";
    WrongAccountKind = 0x109, "an account is of another kind, version or length than it must be";
    WrongAddress = 0x10a, "an account's address is not the one that follows from the others";
    AlreadyInitialized = 0x10b, "the account to be created exists already";
    WrongMint = 0x10c, "an account belongs to another mint";
    WrongProgram = 0x10d, "a program account is not the program it must be";
    Overflow = 0x10e, "an amount would exceed 64 bits or fall below zero";
    NotUpgradeAuthority = 0x10f, "the signer is not the program's upgrade authority";
    InvalidConfig = 0x110, "a configuration value is outside its bounds";
    DepositsPaused = 0x111, "deposits are paused";
    BelowMinimumBond = 0x112, "the first deposit is below the minimum bond";
    AboveBondCap = 0x113, "the bond would exceed the cap per agent";
    AgentSlashed = 0x114, "the agent is slashed";
    OwnerMismatch = 0x115, "the owner named is not the one on record, or is empty";
    ApprovalRequired = 0x116, "the allow-list is on and the admin did not co-sign";
    InvalidPayoutAccount = 0x117, "the payout account is not a live token account of the mint, or is the vault's";
    MetadataTooLong = 0x118, "the metadata URI is longer than 128 bytes or is not UTF-8";
    NotRelayer = 0x119, "the signer is not the relayer";
    ChannelsNotSorted = 0x11a, "channels must be strictly ascending by address";
    WrongVendor = 0x11b, "a channel or gateway belongs to another vendor";
    WrongAgent = 0x11c, "a channel belongs to another agent than the agent account beside it";
    ZeroAmount = 0x11d, "the amount is zero";
    ChannelMissing = 0x11e, "the channel does not exist and the instruction does not say to create it";
    WithdrawalPending = 0x120, "a withdrawal is pending already";
    NoWithdrawalPending = 0x121, "no withdrawal is pending";
    WithdrawalLocked = 0x122, "the withdrawal's timelock has not passed";
    NotAgentOrOwner = 0x123, "the signer is neither the agent nor its owner";
    NotOwner = 0x124, "the signer is not the agent's owner";
    NotAdmin = 0x125, "the signer is not the admin";
    NotPendingAdmin = 0x126, "the signer is not the wallet proposed as admin";
    GatewayRevoked = 0x127, "the gateway is revoked already";
    EmptyBatch = 0x128, "a batch has at least one payment";
    NotClaimant = 0x140, "the signer is neither the channel's vendor nor its gateway in service";
    NoClaimPending = 0x141, "no claim is pending on the channel";
    ClaimLocked = 0x142, "the claim's delay has not passed";
    SlashingWindowOpen = 0x143, "the slashing window has not ended";
    SameChannel = 0x144, "both messages are on one channel";
    WrongPreimage = 0x145, "a message's channel or context does not follow from the payment given";
    NotSlashed = 0x146, "the agent is not slashed";
    NothingToSweep = 0x147, "nothing is left to sweep, or no account given can receive it";
}

impl From<ProgramError> for Error {
    fn from(error: ProgramError) -> Self {
        Error::Runtime(error)
    }
}

fn log_line(line: &str) {
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    // SAFETY: pointer and length are those of a live string.
    unsafe {
        pinocchio::syscalls::sol_log_(line.as_ptr(), line.len() as u64);
    }
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    let _ = line;
}
