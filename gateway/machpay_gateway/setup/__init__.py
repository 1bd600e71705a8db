"""A new gateway's files: which network it joins, what it sells, the configuration as text.

networks   program, token and cluster from a description, a relayer or the chain, compared with each other
offers     routes and prices as people write them
files      the configuration's text, and writing key and configuration without losing anything
"""
