"""What a vendor's operator sees and sets. So far payouts: confirmed wallets, requests and their rows.

Recon (`apps.settlement`) carries payouts out through `services.execution`; profile, services, search and reputation
come with the management API.
"""
