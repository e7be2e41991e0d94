"""moesubnet: independently owned language models, mixed into one better model.

This package is the shared vocabulary: nouns, wire, mathematics, chain access. The components
(`moesubnet.miner`, `.validator`, `.router`, `.distill`) stand on it and never import each other.
Importing it loads neither torch nor aiohttp.
"""

__version__ = "0.1.0"
