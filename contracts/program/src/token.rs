//! What this program needs of the SPL Token program. Classic SPL Token only: Token-2022 mints may charge transfer
//! fees or run hooks, and then the vault would hold less than the bonds say.

use pinocchio::{
    cpi::{Seed, Signer},
    AccountView, Address,
};
use pinocchio_token::{
    instructions::{InitializeAccount3, Transfer},
    state::{Account, AccountState, Mint},
};

use crate::{
    error::{Error, Result},
    pda,
};

pub use pinocchio_token::ID as PROGRAM_ID;

pub const ACCOUNT_LENGTH: usize = Account::LEN;

/// The decimals of `mint`, which must be an initialised mint of classic SPL Token.
pub fn mint_decimals(mint: &AccountView) -> Result<u8> {
    if !mint.owned_by(&PROGRAM_ID) || mint.data_len() != Mint::LEN {
        return Err(Error::WrongMint);
    }
    let mint = Mint::from_account_view(mint)?;
    if mint.is_initialized() {
        Ok(mint.decimals())
    } else {
        Err(Error::WrongMint)
    }
}

/// `view` can receive tokens of `mint` right now: a token account of it, initialised, not frozen.
pub fn is_live(view: &AccountView, mint: &Address) -> bool {
    if !view.owned_by(&PROGRAM_ID) || view.data_len() != ACCOUNT_LENGTH {
        return false;
    }
    match Account::from_account_view(view) {
        Ok(account) => account.mint() == mint && account.state() == AccountState::Initialized,
        Err(_) => false,
    }
}

/// The wallet or program that `view`, a token account, belongs to.
pub fn owner_is(view: &AccountView, owner: &Address) -> Result<bool> {
    Ok(Account::from_account_view(view)?.owner() == owner)
}

/// Make `view` (allocated, owned by the token program) a token account of `mint` that `owner` controls.
pub fn initialize_account(view: &AccountView, mint: &AccountView, owner: &Address) -> Result {
    InitializeAccount3::new(view, mint, owner).invoke()?;
    Ok(())
}

/// Move `amount` from a token account whose authority signed the transaction.
pub fn deposit(
    from: &AccountView,
    vault: &AccountView,
    authority: &AccountView,
    amount: u64,
) -> Result {
    Transfer::new(from, vault, authority, amount).invoke()?;
    Ok(())
}

/// The vault and what it takes to sign for it.
pub struct Vault<'a> {
    pub account: &'a AccountView,
    pub global_bond: &'a AccountView,
    pub mint: &'a Address,
    /// Of GlobalBond's address.
    pub bump: u8,
}

impl Vault<'_> {
    /// Move `amount` to a token account of the same mint; GlobalBond signs.
    #[inline(never)]
    pub fn pay(&self, to: &AccountView, amount: u64) -> Result {
        let bump = [self.bump];
        let seeds = [
            Seed::from(pda::BOND_SEED),
            Seed::from(self.mint.as_array()),
            Seed::from(&bump),
        ];
        Transfer::new(self.account, to, self.global_bond, amount)
            .invoke_signed(&[Signer::from(&seeds)])?;
        Ok(())
    }
}
