"""Embeddings of files, arrays and streams: cut, batch, embed, check."""
