"""Double entry: accounts, transfers and entries. The only writer of money rows.

Other apps call `apps.ledger.services.post` and `apps.ledger.selectors`; nobody else touches the models. The chart of
accounts and every posting are described in docs/money.md. The ledger knows names and amounts, not why they move.
"""
