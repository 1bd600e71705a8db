"""Payments as files: one settlement item per line, each proving itself by the agent's signature and the receipt.

reading    a log that is not ours to change, replayed
export     completed payments of the log, chosen and written
importing  lines judged; handed to the relayer
restore    lines or another folder's log -> the channel totals of this log
"""
