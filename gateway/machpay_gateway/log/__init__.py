"""The gateway's log: what it accepted, what became of it, what was sent and what was delivered.

    records    bytes of every record, the only place that knows them
    join       accept + outcome + sent -> a completed payment
    segments   files: names, torn tails, what may be deleted
    journal    appending, group fsync, rotation, recovery from a failed disk
    reader     completed payments in order, for delivery

`docs/gateway-log.md` documents the format with byte offsets.
"""
