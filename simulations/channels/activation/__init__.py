"""Split learning: activations of a cut layer, to a server that holds the rest of the model."""
