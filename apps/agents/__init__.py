"""The room for what an agent's owner sees and sets: profile, limits, alerts, managed wallets.

Built with the management API.
"""
