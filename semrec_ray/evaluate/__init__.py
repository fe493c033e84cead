"""Events and scores in, offline quality with its uncertainty out; serves nobody.

An events table is split (`splits`), what was kept back is ranked in full with ties at random (`ranking`) by a
recommender or a baseline (`baselines`), and the lists become one number per user (`metrics`, `beyond`), then a mean
with its interval (`bootstrap`), then a table (`report`).

Values per user stay arrays of shape (B,) to the end: any subset of users (those with 3 events, those of one country)
is an index into them.
"""
