"""`machpay-gateway claim`: the vendor's way to its money without the relayer.

positions   what the log proves and the chain says, per channel
plan        which step a channel needs next, and why; no I/O
work        taking those steps
command     arguments, output, exit codes
"""
