"""A semantic recommender on Ray: exact top-k over a sharded catalog, answered over HTTP."""

__version__ = "0.1.0"
