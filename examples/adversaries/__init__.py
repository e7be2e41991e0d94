"""Miners that want the money without the work: one file an attacker, each with its claim.

Each is an engine's law, `law(ids) -> log-law [V]`, or a way of answering, so that live tests and
simulated economies play the same attacker. They are examples of what the subnet must survive, not
of what to run: none of them earns what an honest expert earns.
"""
