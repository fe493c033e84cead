"""Vectors in, best rows out: one shard's exact search, the batches that reach it, and the merge of all shards.

    fanout = Fanout([shard_0, shard_1], BatchConfig())
    found = await fanout.search(ShardQuery("r1", vector, k=10), total_rows=9066, deadline=loop.time() + 1)

`exact.py` defines what is right; `pruned.py` gives that faster on a CPU, `device.py` on a GPU, `hnsw.py` nearly that
on a large CPU shard; `shard.py` applies one of them to one shard's rows; `batcher.py` and `fanout.py` carry queries
there; `merge.py` puts the shards' answers together, and `coverage.py` says how much of the catalog answered.
"""
