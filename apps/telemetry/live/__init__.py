"""Server-sent events: one hub per process on one Redis subscription, one bounded queue per open stream.

hub         Redis -> replay buffer -> queues
stream      one subscriber's frames: coalescing, heartbeats, gaps
topics      which topics exist and who may watch them
consumer    the HTTP side under Channels
routing     the paths
"""
