"""Co-signs aggregated settlements, so that many channels of one agent are settled by one signature.

A proposal carries the agent's own voucher for every channel in it. It is signed only if those vouchers authorise all of
it already: then nothing new is given away, whatever the relayer says. Anything else is refused and logged.
"""

import asyncio
import logging
from collections import OrderedDict
from typing import Final
from urllib.parse import quote

import msgspec

from machpay.chain.network import Network
from machpay.client.balance import ask_relayer
from machpay.client.errors import GatewayUnreachableError
from machpay.client.transport import Transport
from machpay.protocol.aggregates import AggregationList, AggregationProposal, AggregationSignature
from machpay.protocol.encoding import decode_json, to_b64
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey

REMEMBERED: Final = 256
"""Proposals whose refusal is not logged again."""

logger = logging.getLogger(__name__)
_decoder: Final = msgspec.json.Decoder(AggregationList)


class Cosigner:
    """Asks the relayer every `every_s` seconds. Asking is what tells it that this agent co-signs at all."""

    def __init__(
        self, *, key: SigningKey, network: Network, transport: Transport, relayer_url: str, every_s: float
    ) -> None:
        self._key = key
        self._network = network
        self._transport = transport
        self._relayer_url = relayer_url
        self._every_s = every_s
        self._refused: OrderedDict[str, None] = OrderedDict()
        self.signed = 0
        """Proposals that were signed."""

    async def run(self) -> None:
        """Co-sign until cancelled. Trouble of any kind is logged; payments go on."""
        while True:
            try:
                await self.look()
            except (GatewayUnreachableError, MalformedError) as error:
                logger.warning("asking for settlements to co-sign: %s", error)
            except Exception:
                logger.exception("co-signing failed")
            await asyncio.sleep(self._every_s)

    async def look(self) -> int:
        """Sign what is proposed now and authorises nothing new; returns how many. Raises `GatewayUnreachableError`,
        `MalformedError`."""
        target = f"/aggregations?agent={self._key.pubkey}"
        answer = await ask_relayer(self._transport, self._key, self._relayer_url, "GET", target)
        if answer.status_code != 200:
            raise MalformedError(f"the relayer answers {answer.status_code}: {answer.text[:200]}")
        listed: AggregationList = decode_json(_decoder, answer.content, "the relayer's proposals")
        signed = 0
        for proposal in listed.proposals:
            signed += await self._consider(proposal)
        self.signed += signed
        return signed

    async def _consider(self, proposal: AggregationProposal) -> bool:
        try:
            aggregate, vouchers = proposal.parse(
                domain=self._network.domain, mint=self._network.mint, agent=self._key.public
            )
            if not aggregate.covers(vouchers):
                raise MalformedError("it asks for more than this agent has signed per channel")
        except MalformedError as error:
            self._refuse(proposal.id, error.detail)
            return False
        body = msgspec.json.encode(AggregationSignature(to_b64(aggregate.sign(self._key))))
        target = f"/aggregations/{quote(proposal.id, safe='')}/sign"
        answer = await ask_relayer(self._transport, self._key, self._relayer_url, "POST", target, body)
        if answer.status_code != 200:
            self._refuse(proposal.id, f"the relayer answers {answer.status_code}: {answer.text[:200]}")
            return False
        return True

    def _refuse(self, proposal: str, why: str) -> None:
        if proposal in self._refused:
            return
        logger.warning("aggregated settlement %s was not co-signed: %s", proposal, why)
        self._refused[proposal] = None
        if len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
