"""What lasts: checked Arrow tables in; Lance tables, releases and channels out.

On disk, `<store>/<table>.lance`, each a Lance dataset that any Lance reader opens:
`items`, `events`, `embeddings/<model>`, `spaces`, `vectors/<space>`, `artefacts/<space>`, `users/<space>`,
`popularity`, `releases`, `channels`, `variants` (which share of a channel's users others answer), `shards` (which shard
holds what: `shard_map.py`), and `changes`, the log of live writes (`changes.py`); a release's `seq` is its place in it:
its tables hold all changes up to there, and whoever loads it goes on with those after.

Beside them, `indexes/<space>/` holds files: what shards search with, built of a release's rows (`indexes.py`).

    store = Store("/data/movies")
    release = read_release(store, read_channel(store, "live").release)
    read_items(store, release.versions["items"])

A release names one version of every table it uses; writing to the tables never changes what it means. What no release,
channel or young process needs, `cleaning.py` removes.
"""

from semrec_ray.store.tables import Store

__all__ = ["Store"]
