import asyncio

from machpay import MachPayClient, MachPayConfig


async def main() -> None:
    config = MachPayConfig.from_demo("var/demo.json")
    async with MachPayClient(config) as client:
        response = await client.pay_and_call(url=f"{config.gateways[0]}/embed?text=hello", method="GET")
        print(response.status_code, "paid", response.charged, "atomic units")


asyncio.run(main())
