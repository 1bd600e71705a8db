// The scheme `machpay-bond` for the stock `@x402/fetch` client. Node 20, no dependencies of its own.
//
//   const scheme = new MachPayScheme(secretKey, { programId, mint, domain });
//   const pay = wrapFetchWithPayment(fetch, new x402Client().register("solana:*", scheme));
//   const response = await pay("https://api.example/v1/embed");
//
// Bytes and rules are those of docs/protocol.md. Amounts are BigInt, atomic units. Totals live in memory: a new process
// learns them from the gateway's first corrective answer, which is followed only as far as our own signature proves it.
// Like the Python client it never leaves a gateway more than 64 prices beyond what is proven: a receipt's total counts as
// far as our own charges, or another process that pays with the key, explain it.

import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from "node:crypto";

export const SCHEME = "machpay-bond";
const MAX_PRICES = 64n;
const MAX_LIFETIME_S = 600;
const REMEMBERED = 4096;
const SKEW_S = 30;

export class MachPayScheme {
  scheme = SCHEME;
  schemeHooks = { onPaymentResponse: (context) => this.#answered(context) };
  #channels = new Map();

  // `secretKey`: 32 bytes, or the 64 numbers of a Solana key file. `network`: programId, mint and domain in base58.
  constructor(secretKey, network, { maxPriceAtomic = 100_000n } = {}) {
    const seed = Buffer.from(secretKey).subarray(0, 32);
    this.key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: "der", type: "pkcs8" });
    this.agent = createPublicKey(this.key).export({ format: "der", type: "spki" }).subarray(-32);
    this.network = network;
    this.caip2 = `solana:${network.domain.slice(0, 32)}`;
    this.maxPriceAtomic = maxPriceAtomic;
  }

  findDefaultAsset(asset, network) {
    const ours = asset === this.network.mint && network === this.caip2;
    return ours ? { symbol: "USDC", decimals: 6, asset } : undefined;
  }

  async createPaymentPayload(x402Version, requirements) {
    const { extra, network, asset } = requirements;
    const { programId, mint, domain } = this.network;
    if (network !== this.caip2 || asset !== mint || extra.programId !== programId || extra.domain !== domain) {
      throw new Error("the 402 is for another network, token or program");
    }
    const amount = BigInt(requirements.amount);
    if (amount > this.maxPriceAtomic) throw new Error(`the price ${amount} is above ${this.maxPriceAtomic}`);
    const channel = this.#channel(extra.gateway);
    const now = Date.now();
    const seconds = Math.floor(now / 1000);
    const intent = {
      channel: channel.address,
      cumulative: channel.quote(amount, seconds),
      nonce: uuid7(now),
      amount,
      deadline: BigInt(seconds + Math.min(requirements.maxTimeoutSeconds, MAX_LIFETIME_S)),
      requestHash: channel.rebound.get(extra.requestHash) ?? Buffer.from(extra.requestHash, "hex"),
    };
    channel.rebound.delete(extra.requestHash);
    channel.opened(intent);
    return {
      x402Version,
      payload: {
        agent: base58(this.agent),
        gateway: extra.gateway,
        amount: String(amount),
        cumulative: String(intent.cumulative),
        nonce: uuidText(intent.nonce),
        deadline: Number(intent.deadline),
        requestHash: intent.requestHash.toString("hex"),
        signature: sign(null, message(intent), this.key).toString("base64"),
      },
    };
  }

  // One more payment is asked for when the total was too low, or the request is hashed otherwise.
  async #answered({ paymentPayload, settleResponse, paymentRequired }) {
    const paid = paymentPayload.payload;
    const channel = this.#channel(paid.gateway);
    const id = digest(parse(paid, channel.address)).toString("hex");
    const payment = channel.open.get(id);
    if (payment === undefined) return undefined;
    const offer = paymentRequired?.accepts?.find((entry) => entry.scheme === SCHEME);
    const extra = settleResponse?.extra ?? offer?.extra ?? {};
    const code = settleResponse ? settleResponse.errorReason : paymentRequired?.error;
    if (extra.receipt && extra.committedTotal === undefined) {
      channel.resolved(extra.receipt, id, payment);
      return undefined;
    }
    if (code === "cumulative_too_low") {
      channel.open.delete(id);
      if (!channel.correct(extra, this.agent)) throw new Error("the gateway asks for more than it can prove");
      return { recovered: true };
    }
    if (code === undefined || code === "nonce_replayed") return undefined;
    channel.open.delete(id);
    if (code !== "request_mismatch" || !extra.requestHash || extra.requestHash === paid.requestHash) return undefined;
    channel.rebound.set(paymentPayload.accepted.extra.requestHash, Buffer.from(extra.requestHash, "hex"));
    return { recovered: true };
  }

  #channel(gateway) {
    let channel = this.#channels.get(gateway);
    if (channel === undefined) {
      channel = new Channel(channelAddress(this.network, this.agent, unbase58(gateway)), unbase58(gateway));
      this.#channels.set(gateway, channel);
    }
    return channel;
  }
}

// What is known of one channel. `total` is proven committed, `served` proven served, `signed` authorised; `explained` is
// what our own payments can have come to, `others` the highest cumulative of another holder of our key.
class Channel {
  total = 0n;
  served = 0n;
  signed = 0n;
  explained = 0n;
  others = undefined;
  shared = false;
  price = 0n;
  open = new Map();
  made = new Set();
  rebound = new Map();

  constructor(address, gateway) {
    this.address = address;
    this.gateway = gateway;
  }

  quote(amount, now) {
    for (const [id, payment] of this.open) {
      if (payment.deadline + BigInt(SKEW_S) >= BigInt(now)) continue;
      this.open.delete(id);
      this.explained += payment.amount;
    }
    this.price = max(this.price, amount);
    const unresolved = this.unresolved() + amount;
    const limit = max(this.signed, this.served + unresolved + MAX_PRICES * this.price);
    if (this.total + amount > limit) throw new Error(`more than ${MAX_PRICES} prices would be unproven`);
    return min(this.total + unresolved, limit);
  }

  unresolved() {
    let sum = 0n;
    for (const payment of this.open.values()) sum += payment.amount;
    return sum;
  }

  opened(intent) {
    this.signed = max(this.signed, intent.cumulative);
    this.open.set(digest(intent).toString("hex"), { amount: intent.amount, deadline: intent.deadline });
    this.made.add(context(intent).toString("hex"));
    if (this.made.size > REMEMBERED) this.made.delete(this.made.values().next().value);
  }

  resolved(receipt, id, payment) {
    const charged = BigInt(receipt.charged);
    const total = BigInt(receipt.servedTotal);
    const valid = isSigned(this.gateway, receiptMessage(receipt), receipt.signature);
    if (!valid || receipt.digest !== id || charged > payment.amount || charged > total) {
      console.warn(`payment ${id}: the receipt is not the gateway's valid word`);
      return;
    }
    // A total above what we signed, or our own payments come to, is a claim without a cause.
    let followed = min(total, this.signed);
    if (!this.shared) followed = min(followed, this.explained + this.unresolved());
    this.open.delete(id);
    this.explained += charged;
    this.total = max(this.total, followed);
    this.served = max(this.served, this.shared ? followed : min(followed, this.explained));
  }

  correct({ committedTotal, voucher, receipt }, agent) {
    const committed = BigInt(committedTotal ?? 0);
    if (!voucher || unbase58(voucher.channel).compare(this.address) || BigInt(voucher.cumulative) < committed) {
      return false;
    }
    const signed = voucherMessage(this.address, BigInt(voucher.cumulative), Buffer.from(voucher.context, "hex"));
    if (!isSigned(agent, signed, voucher.signature)) return false;
    this.signed = max(this.signed, BigInt(voucher.cumulative));
    this.total = max(this.total, committed);
    if (!this.made.has(voucher.context)) this.#followAnother(BigInt(voucher.cumulative), committed, receipt);
    return true;
  }

  // The first voucher of another holder of our key is where we start; a higher one later shows that it pays beside us,
  // and from then on receipts for payments that we do not know count.
  #followAnother(cumulative, committed, receipt) {
    if (this.others === undefined) {
      this.served = max(this.served, committed);
      this.explained = max(this.explained, cumulative);
    } else if (cumulative > this.others) {
      this.shared = true;
    }
    if (this.shared && receipt && isSigned(this.gateway, receiptMessage(receipt), receipt.signature)) {
      this.served = max(this.served, min(BigInt(receipt.servedTotal), cumulative));
    }
    this.others = max(this.others ?? 0n, cumulative);
  }
}

// ---- bytes

const PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");
const SPKI = Buffer.from("302a300506032b6570032100", "hex");
const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const max = (a, b) => (a > b ? a : b);
const min = (a, b) => (a < b ? a : b);

function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

const terms = (intent) => Buffer.concat([intent.nonce, u64(intent.amount), u64(intent.deadline), intent.requestHash]);
export const context = (intent) => sha256(Buffer.from("machpay:context:v1"), terms(intent)).subarray(0, 16);
const voucherMessage = (channel, cumulative, bound) =>
  Buffer.concat([Buffer.from("MP\x01I", "latin1"), channel, u64(cumulative), bound]);
export const message = (intent) => voucherMessage(intent.channel, intent.cumulative, context(intent));
export const digest = (intent) => sha256(Buffer.from("machpay:intent:v1"), message(intent), terms(intent));

export function receiptMessage(receipt) {
  const status = Buffer.alloc(2);
  status.writeUInt16LE(receipt.httpStatus);
  const numbers = [receipt.charged, receipt.servedTotal, receipt.time].map((value) => u64(BigInt(value)));
  const head = Buffer.from("MP\x01R", "latin1");
  return Buffer.concat([head, Buffer.from(receipt.digest, "hex"), status, ...numbers]);
}

function isSigned(key, bytes, signature) {
  const spki = createPublicKey({ key: Buffer.concat([SPKI, key]), format: "der", type: "spki" });
  return verify(null, bytes, spki, Buffer.from(signature, "base64"));
}

export function parse(payload, channel) {
  return {
    channel,
    cumulative: BigInt(payload.cumulative),
    nonce: Buffer.from(payload.nonce.replaceAll("-", ""), "hex"),
    amount: BigInt(payload.amount),
    deadline: BigInt(payload.deadline),
    requestHash: Buffer.from(payload.requestHash, "hex"),
  };
}

// A UUIDv7 drawn afresh from the system's randomness for every signature.
function uuid7(unixMs) {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(unixMs, 0, 6);
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return bytes;
}

const uuidText = (bytes) => bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");

const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

export function base58(bytes) {
  let number = BigInt(`0x${bytes.toString("hex") || "0"}`);
  let text = "";
  for (; number > 0n; number /= 58n) text = ALPHABET[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte) break;
    text = `1${text}`;
  }
  return text;
}

// 32 bytes: a key, an address or a genesis hash.
export function unbase58(text) {
  let number = 0n;
  for (const letter of text) {
    const value = ALPHABET.indexOf(letter);
    if (value < 0) throw new Error(`${text} is not base58`);
    number = number * 58n + BigInt(value);
  }
  const hex = number.toString(16).padStart(64, "0");
  if (hex.length > 64) throw new Error(`${text} does not have 32 bytes`);
  return Buffer.from(hex, "hex");
}

// The program address of the channel's seeds: the first hash, from bump 255 down, that is no point of the curve.
export function channelAddress({ programId, mint, domain }, agent, gateway) {
  const seeds = [Buffer.from("channel"), unbase58(domain), unbase58(mint), agent, gateway];
  for (let bump = 255; bump >= 0; bump--) {
    const tail = [Buffer.from([bump]), unbase58(programId), Buffer.from("ProgramDerivedAddress")];
    const address = sha256(...seeds, ...tail);
    if (!isOnCurve(address)) return address;
  }
  throw new Error("no program address");
}

const P = 2n ** 255n - 19n;
const D = 37095705934669439343138083508754565189542113879843219016388785533085940283555n;

function power(base, exponent) {
  let result = 1n;
  for (let square = base % P; exponent > 0n; exponent >>= 1n, square = (square * square) % P) {
    if (exponent & 1n) result = (result * square) % P;
  }
  return result;
}

// y is on the curve if x² = (y² − 1) / (d·y² + 1) has a root.
function isOnCurve(bytes) {
  const little = BigInt(`0x${Buffer.from(bytes).reverse().toString("hex")}`) & (2n ** 255n - 1n);
  const square = (little * little) % P;
  const x2 = (((square - 1n + P) % P) * power(D * square + 1n, P - 2n)) % P;
  return x2 === 0n || power(x2, (P - 1n) / 2n) === 1n;
}
