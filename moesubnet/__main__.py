"""`python -m moesubnet` is `moesubnet`."""

from moesubnet.cli import main

main()
