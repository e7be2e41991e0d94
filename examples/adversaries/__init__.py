"""Miners that want the money without the work: one file an attacker, each with its claim.

Each is an engine's law, `law(ids) -> log-law [V]`, or a way of answering, so that live tests and
simulated economies (`benchmarks/economy.py`) play the same attacker; `live.py` says how eight of
them are served by `moesubnet miner run`. They are examples of what the subnet must survive, not of
what to run. One earns more than an honest expert and is not stopped yet: whoever holds others'
weights and answers sooner from the first epoch on (`early-neighbour`, an economy).
"""
