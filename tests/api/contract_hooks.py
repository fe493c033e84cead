"""What schemathesis is told beside the OpenAPI document (tests/api/test_contract.py runs it with these)."""

from typing import Any

import schemathesis

ENOUGH_S = 5.0  # a caller who wants it in a millisecond gets the 504 that they asked for


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Give queries the time that an answer takes."""
    body = case.body if isinstance(case.body, dict) else {}
    queries = body.get("queries")
    for query in [body, *(queries if isinstance(queries, list) else [])]:
        if isinstance(query, dict) and isinstance(query.get("timeout_s"), float) and query["timeout_s"] >= 0.001:
            query["timeout_s"] = max(query["timeout_s"], ENOUGH_S)
