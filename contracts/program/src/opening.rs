//! Creating a Channel: the pair of an agent and a gateway, bound for ever to the vendor that the gateway serves.

use core::mem::size_of;

use pinocchio::{cpi::Seed, AccountView, Address};

use crate::{
    error::{Error, Result},
    event::{discriminator, Event, EventSink},
    pda::{self, NewAccount},
    state::{self, AgentAccount, Channel, GatewayAccount, GlobalBond},
};

/// What opening a channel needs besides the three accounts it is about.
pub struct Opening<'a> {
    pub program_id: &'a Address,
    pub bond: &'a GlobalBond,
    pub payer: &'a AccountView,
    pub sink: &'a EventSink<'a>,
}

impl Opening<'_> {
    /// Create the channel of `agent_view`'s agent and the gateway; the watermark starts at zero. A revoked gateway's
    /// channels open too: its revocation must not cost the vendor what was served before it.
    #[inline(never)]
    pub fn open(
        &self,
        channel_view: &mut AccountView,
        agent_view: &AccountView,
        gateway_view: &AccountView,
    ) -> Result {
        let agent = state::load::<AgentAccount>(agent_view, self.program_id)?;
        let gateway = state::load::<GatewayAccount>(gateway_view, self.program_id)?;
        if agent.mint != self.bond.mint {
            return Err(Error::WrongMint);
        }
        let seeds: [&[u8]; 5] = [
            pda::CHANNEL_SEED,
            self.bond.domain.as_array(),
            self.bond.mint.as_array(),
            agent.agent.as_array(),
            gateway.gateway.as_array(),
        ];
        let bump = pda::expect(channel_view, &seeds, self.program_id)?;

        let bump_seed = [bump];
        pda::create(
            channel_view,
            &NewAccount {
                payer: self.payer,
                owner: self.program_id,
                space: size_of::<Channel>(),
            },
            &[
                Seed::from(seeds[0]),
                Seed::from(seeds[1]),
                Seed::from(seeds[2]),
                Seed::from(seeds[3]),
                Seed::from(seeds[4]),
                Seed::from(&bump_seed),
            ],
        )?;
        {
            let mut channel = state::initialize::<Channel>(channel_view, bump)?;
            channel.agent = agent.agent.clone();
            channel.gateway = gateway.gateway.clone();
            channel.vendor = gateway.vendor.clone();
            channel.mint = self.bond.mint.clone();
        }

        let mut event = Event::<176>::new(discriminator::CHANNEL_OPENED);
        event
            .address(channel_view.address())
            .address(&self.bond.mint)
            .address(&agent.agent)
            .address(&gateway.gateway)
            .address(&gateway.vendor);
        self.sink.emit(event.as_bytes())
    }
}
