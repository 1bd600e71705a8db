"""The Solana program, how it is built, and the local chain that runs it. Imports only `machpay`."""
