"""Chain access: a typed client, wallets, the metagraph, and the embedded development chain."""
