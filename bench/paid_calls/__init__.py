"""Parts of `bench/gateway.py`: the network it measures on, the peers, and a client light enough not to be the limit.

stack      every process, and which core it runs on
upstream   the vendor's server: one fixed answer
peer       the stock x402 FastAPI middleware with an in-process facilitator
orders     payments signed ahead of time, as the bytes of whole requests
load       closed and open loops over raw sockets
clients    whole calls by our SDK and by the stock x402 client
steps      what one payment costs in the gateway, step by step
report     medians and tables
"""
