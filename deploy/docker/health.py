"""Exit status 0 where this node's Serve proxy answers, 1 else: the health check of the image."""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('SEMREC_PORT', '8000')}{os.environ.get('SEMREC_HEALTH', '/-/healthz')}"

try:
    with urllib.request.urlopen(URL, timeout=2) as answer:
        sys.exit(0 if answer.status == 200 else 1)
except (urllib.error.URLError, OSError) as error:
    sys.exit(f"{URL}: {error}")
