"""The receiver process: takes signed CloudEvents over HTTP, stores them by COPY, then tells the live pages.

asgi        the process: configuration and wiring
app         one request: authenticate, parse, wait for the commit, answer
replay      whether a signed request was used before
parse       bytes of a request -> CloudEvents, in the three forms of the HTTP binding
route       one CloudEvent -> checked rows for the tables of its type
buffer      bounded waiting room between requests and the database
write       one batch of events -> one transaction
publish     stored events -> Redis, best effort
"""
