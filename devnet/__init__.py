"""The whole network on one machine: embedded servers, the local chain, every process, agents that pay.

`make demo` runs `python -m devnet`; the end-to-end tests use the same classes. Nothing else imports this package.
"""
