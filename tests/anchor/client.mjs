// A stock Anchor client that knows the program from its IDL only. Reads one JSON request from standard input, writes one
// JSON answer to standard output.
//
//   {"command": "encode", idl, calls: [{name, args}]}          -> [instruction data in hex]
//   {"command": "deposit", idl, rpcUrl, agent: [64 numbers], globalBond, source, amount}
//                                                              -> {signature, account, event}
import { readFileSync } from "node:fs";
import anchor from "@coral-xyz/anchor";

const { AnchorProvider, BN, Program, Wallet, web3 } = anchor;
const POLL_MS = 50;
const EVENT_TAG_BYTES = 8;

function fromJson(type, value) {
  if (typeof type === "object" && "option" in type) return value === null ? null : fromJson(type.option, value);
  if (typeof type === "object" && "array" in type) return [...Buffer.from(value, "hex")];
  if (type === "u64" || type === "i64") return new BN(value);
  if (type === "pubkey") return new web3.PublicKey(value);
  return value;
}

function encode({ idl, calls }) {
  const program = new Program(idl, new AnchorProvider(new web3.Connection("http://127.0.0.1:1"), null, {}));
  return calls.map(({ name, args }) => {
    const instruction = program.idl.instructions.find((entry) => entry.name === name);
    const values = Object.fromEntries(
      instruction.args.map((argument) => [argument.name, fromJson(argument.type, args[argument.name])]),
    );
    return program.coder.instruction.encode(name, values).toString("hex");
  });
}

async function landed(connection, signature) {
  for (;;) {
    const { value } = await connection.getSignatureStatuses([signature]);
    if (value[0]?.err) throw new Error(JSON.stringify(value[0].err));
    if (["confirmed", "finalized"].includes(value[0]?.confirmationStatus)) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function recordedEvent(program, transaction) {
  const keys = transaction.transaction.message.getAccountKeys({
    accountKeysFromLookups: transaction.meta.loadedAddresses,
  });
  for (const { instructions } of transaction.meta.innerInstructions) {
    for (const { programIdIndex, data } of instructions) {
      if (keys.get(programIdIndex).equals(program.programId)) {
        const bytes = anchor.utils.bytes.bs58.decode(data);
        return program.coder.events.decode(Buffer.from(bytes.subarray(EVENT_TAG_BYTES)).toString("base64"));
      }
    }
  }
  return null;
}

async function deposit({ idl, rpcUrl, agent, globalBond, source, amount }) {
  const key = web3.Keypair.fromSecretKey(Uint8Array.from(agent));
  const connection = new web3.Connection(rpcUrl, "confirmed");
  const program = new Program(idl, new AnchorProvider(connection, new Wallet(key), { commitment: "confirmed" }));
  const builder = program.methods.depositBond(new BN(amount), key.publicKey).accounts({
    globalBond,
    agentTokenAccount: source,
    authority: key.publicKey,
    payer: key.publicKey,
    agent: key.publicKey,
    approver: null,
  });
  const { agentAccount } = await builder.pubkeys();
  const transaction = await builder.transaction();
  transaction.feePayer = key.publicKey;
  transaction.recentBlockhash = (await connection.getLatestBlockhash("confirmed")).blockhash;
  transaction.sign(key);
  const signature = await connection.sendRawTransaction(transaction.serialize());
  await landed(connection, signature);
  const found = await connection.getTransaction(signature, {
    commitment: "confirmed",
    maxSupportedTransactionVersion: 0,
  });
  const account = await program.account.agentAccount.fetch(agentAccount, "confirmed");
  return { signature, account, event: recordedEvent(program, found) };
}

const COMMANDS = { encode, deposit };
const request = JSON.parse(readFileSync(0, "utf8"));
const answer = await COMMANDS[request.command](request);
// Whole numbers as decimal text: Anchor's own form is hexadecimal.
BN.prototype.toJSON = function toJSON() {
  return this.toString(10);
};
process.stdout.write(JSON.stringify(answer));
process.exit(0);
