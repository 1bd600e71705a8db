"""Every byte that is signed and every format that several parts share. One place to build them, one to parse
them.

Pure functions and value objects: no sockets, no clocks except where a function says so, no Django.
The golden vectors in `contracts/vectors/` are written from here (`python -m machpay.protocol.vectors`) and
read by the tests of this package and of the Solana program.
"""
