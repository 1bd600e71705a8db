"""The gateway: a reverse proxy that is paid per request. One process, one key, one log; no Django, no database.

settings, routes       what the operator wrote
decide                 pure: facts + price + channel + credit -> Forward | Challenge | Reject | LookUp
book, log/             what was accepted, charged and sent; the book in memory, the log on disk
payments               the only writer of both
app, exchange, upstream, challenge   HTTP, driven by the decisions
solvency, delivery, events, heartbeat   talk to the network, never in a request's way
runtime, server, cli   put it together
"""

__version__ = "0.1.0"
