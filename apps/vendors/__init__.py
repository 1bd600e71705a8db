"""The room for what a vendor's operator sees and sets: profile, services, search, reputation, payout requests. Built with the management API."""
