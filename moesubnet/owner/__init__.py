"""What a subnet's owner does with its spec: make it from a model, check, show and serve it."""
