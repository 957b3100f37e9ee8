"""Downstream tasks: labelled data, a small classifier on the embeddings, and scores."""
