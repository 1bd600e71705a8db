"""What a gateway tells the network's receiver about itself. Money never depends on any of it.

spill       events on disk while the receiver is away
traffic     bytes, connections, and per route what was answered and how fast
packet      the minute's packet made of it
log_events  warnings and errors of this process as events
risk        agents whose bond will not last

`machpay_gateway.events` is the queue that all of it goes through.
"""
