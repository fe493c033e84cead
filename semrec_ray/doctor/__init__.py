"""A machine, a Ray cluster and a store in, what is wrong with them and what to do about it out: `semrec doctor`.

findings.py     what a check says
machine.py      packages, memory, disk, files, GPU of this machine
network.py      who listens where on this machine, and of which Ray
ray_cluster.py  the Ray cluster: its dashboard, its nodes, its environment, what it serves
catalog.py      the configuration, the store, the model
examination.py  all of them, one after the other
command.py      the command line

A check is a pure function, facts in, Finding out; what gathers the facts stands beside it.
"""

from semrec_ray.doctor.examination import examine
from semrec_ray.doctor.findings import Finding

__all__ = ["Finding", "examine"]
