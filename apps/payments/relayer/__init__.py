"""The relayer process: where gateways hand in payments and ask what agents are good for.

    asgi          the process
    startup       configuration, start and stop
    app           one request: who answers it; health
    settlements, heartbeats, liability, leases, aggregations, complaints
                  an endpoint each: authenticate, check, call one service, answer
    auth          signed requests, each usable once
    directory     which gateways exist, and bonds the mirror does not know yet: bounded look-ups on the chain
    threads       where signatures are verified and the database is used, off the event loop
    waiting       long polls
    metrics       what Prometheus sees

Raw ASGI; Django supplies settings, connections and services, never a view.
"""
