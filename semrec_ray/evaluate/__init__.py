"""Events and scores in, offline quality with its uncertainty out; serves nobody.

An events table is split (`splits`), and a `task` asks everybody the same: the release through the recommender that
serves (`replay`), the `baselines` by matrices. What was kept back is ranked in full (`ranking`), and the lists become
one number per user (`metrics`, `beyond`), then a mean with its interval (`bootstrap`), then a table and a plot
(`report`). `evaluation` is that from start to finish; `gates/quality.py`, before a publish, and the `tuning` of
settings ask in the same way.

Values per user stay arrays of shape (B,) to the end: any subset of users (those with 3 events, those of one country)
is an index into them.
"""
