// The stock @x402/fetch client with our scheme. Reads one JSON object from stdin, prints one to stdout.
import { readFileSync } from "node:fs";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client } from "@x402/fetch";
import * as machpay from "./machpay-scheme.mjs";

const commands = {
  // A process starts without any state; each call is a whole paid call of the stock client.
  async pay({ secret, network, calls }) {
    const scheme = new machpay.MachPayScheme(secret, network);
    const pay = wrapFetchWithPayment(fetch, new x402Client().register("solana:*", scheme));
    const answers = [];
    for (const { url, method, body } of calls) {
      let response;
      try {
        response = await pay(url, { method, body });
      } catch (error) {
        answers.push({ error: String(error) });
        continue;
      }
      const header = response.headers.get("payment-response");
      answers.push({
        status: response.status,
        body: await response.text(),
        settled: header ? decodePaymentResponseHeader(header) : null,
      });
    }
    return answers;
  },

  vectors({ channels, intents, receipts }) {
    return {
      channels: channels.vectors.map(({ agent, gateway }) =>
        machpay.base58(
          machpay.channelAddress(channels.network, machpay.unbase58(agent), machpay.unbase58(gateway)),
        ),
      ),
      intents: intents.vectors.map((vector) => {
        const intent = machpay.parse({ ...vector, requestHash: vector.requestHashHex }, machpay.unbase58(vector.channel));
        return {
          contextHex: machpay.context(intent).toString("hex"),
          messageHex: machpay.message(intent).toString("hex"),
          digestHex: machpay.digest(intent).toString("hex"),
        };
      }),
      receipts: receipts.vectors.map(({ json }) => machpay.receiptMessage(json).toString("hex")),
    };
  },
};

const request = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await commands[request.command](request)));
