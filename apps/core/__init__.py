"""What every app needs and none owns: money text, problems, partitions, logging, single-use nonces.

Nothing here knows what a payment is. It may import `machpay` and no other app.
"""
