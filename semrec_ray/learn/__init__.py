"""Embeddings and behaviour in, better vectors out: centred content, a learned space, what is popular.

`content.py` makes a model's embeddings a space. `space.py` (on `spectral.py`) says of items what people did with them,
`cold.py` (on `features.py`) foretells that of items without events, `artefact.py` keeps what was learned, and
`later.py` gives items that come after the training their vectors from it. `training.py` above is all of it in order,
and says how 100M items are more of the same.
"""
