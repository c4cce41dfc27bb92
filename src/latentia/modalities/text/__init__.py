"""Texts: readers, autoencoder, completion, metrics and files."""
