"""JSON over HTTP in, JSON out: the wire. It imports no room and speaks to the Service protocol in types.

app = create_app(lambda: service, config)     # an AppConfig; any ASGI server runs it, Ray Serve does in production
"""

from semrec_ray.api.http import create_app

__all__ = ["create_app"]
