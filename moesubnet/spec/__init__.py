"""What every neuron of a subnet must agree on, and where it is fetched."""
