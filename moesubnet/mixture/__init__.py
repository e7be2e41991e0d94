"""How experts are weighed and mixed, and what a vote was computed from."""
