"""Recon: settles channels on-chain, follows the chain, and keeps the ledger equal to it."""
