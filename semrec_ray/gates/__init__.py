"""A release that nobody serves yet in, a publish or a refusal out: what has to hold before a channel moves.

completeness.py  every item, column and user that has to be there is
samples.py       it answers, by the code that serves, what a brute force finds
quality.py       it foretells what users did next no worse than what is live
publish.py       runs those that are wanted, one after the other, then moves the channel
"""

from semrec_ray.gates.publish import Gates, publish_gated, wanted_gates

__all__ = ["Gates", "publish_gated", "wanted_gates"]
