"""Bring the store's tables up to the log of live writes: python -m jobs.fold."""

from dataclasses import asdict
from typing import Any

from jobs.options import StoreOption, open_store, progress, run
from semrec_ray.write import fold


def main(store: StoreOption = None) -> dict[str, Any]:
    """Fold the log of live writes into the tables: what the next import, training and publish start from.

    An app that is served does this by itself, every few minutes; this is for when none is.
    """
    report = fold(open_store(store))
    progress(f"the tables hold all live writes up to {report.seq}; {report.kept} are kept in the log for roll-backs")
    return asdict(report)


if __name__ == "__main__":
    run(main)
