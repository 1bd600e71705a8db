"""The room for what a vendor's operator sees and sets: profile, services, search, reputation, payouts.

Built with the management API.
"""
