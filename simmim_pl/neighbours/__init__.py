"""Nearest neighbours, near-duplicates and outliers of a table of embeddings, as one HTML page."""
