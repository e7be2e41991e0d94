"""This machine: child processes, folders, logs, progress."""
