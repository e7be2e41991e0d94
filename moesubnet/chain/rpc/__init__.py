"""Talking to a node: one socket, the chain's own types, calls signed and found in a block."""
