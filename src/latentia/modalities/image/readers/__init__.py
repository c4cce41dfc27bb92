"""Readers of pictures. They use the network only where a set is fetched by its name, and for `hf:`."""
