"""Logging set-up. The table of metrics comes here (name, unit, labels), declared once."""

import logging
import sys


def configure_logging(level: str = "INFO") -> None:
    """Send this package's log lines to stderr, once per process; Ray collects them per replica and job."""
    logger = logging.getLogger("semrec_ray")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
