"""Embeddings and behaviour in, better numbers out: centred content, what is popular; the learned space later."""
