"""What is known of users: histories and live events in, directions in the space and what to leave out of an answer out.

`taste.py` says how events become a vector, `histories.py` does it for a whole table. Live: `released.py` is what a
release says of its users, `deeds.py` what was done since, `recent.py` both of one user, `item_vectors.py` and
`item_changes.py` the items as they are now, `profiles.py` all of it together. `partitions.py` says who holds a user.

And what routers keep of their answers: `cache.py` under which keys, `touched.py` which writes make these others,
`shared_answers.py` in Redis.
"""
