"""Several real nodes with consensus between them, on this machine or prepared for many."""
