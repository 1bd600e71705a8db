"""The vendors app's verbs: wallets, payout requests, and what recon records of payouts."""
