"""The loops of the pruned search, compiled by numba: upper bounds of scores in, the exact best rows out.

What is compiled here gives the very bits of `exact.exact_scores`: products of float32 values are exact in float64, and
they are added by folding halves. Only the bounds are allowed to be rough, in float32 and in any order.
"""

import numba
import numpy as np

CHUNK = 64  # rows whose highest bound is looked at first
LANES = CHUNK // 4
NOTHING = np.float32(-np.inf)
ANY_ORDER = {"reassoc", "contract", "nsz"}  # of additions; infinities keep their meaning


@numba.njit(cache=True, nogil=True, fastmath=ANY_ORDER)
def rough_score(query, row):
    """Return the inner product of float32 vectors in float32."""
    total = np.float32(0.0)
    for i in range(query.shape[0]):
        total += query[i] * row[i]
    return total


@numba.njit(cache=True, nogil=True)
def exact_score(query, row, products):
    """Return the score of (D,) float32 vectors as `exact.exact_scores` defines it; `products` (D,) is scratch."""
    width = query.shape[0]
    for i in range(width):
        products[i] = np.float64(query[i]) * np.float64(row[i])
    while width > 1:
        half = (width + 1) // 2
        for i in range(width - half):
            products[i] += products[half + i]
        width = half
    return np.float32(products[0]) + np.float32(0.0)


@numba.njit(cache=True, nogil=True, fastmath=ANY_ORDER)
def products_of_one(query, codes, products):
    """Write the float32 inner products of a query (M,) with int8 codes (n, M) to (n,)."""
    for row in range(codes.shape[0]):
        total = np.float32(0.0)
        for i in range(codes.shape[1]):
            total += np.float32(codes[row, i]) * query[i]
        products[row] = total


@numba.njit(cache=True, nogil=True)
def bounds_of(products, first, of_rows, of_query, keep, without, bounds):
    """Write the upper bounds of a block's scores to (n,), -inf for rows that may not be returned.

    products  (n,) int32 or float32: of the codes of query and row first + i
    of_rows   (n,) float32 each: scales, errors, lengths of the rows' codes (`prefixes.Codes`)
    of_query  scale, length of the code times that, error of the query's
    keep      (n,) bool, or empty where every row may be returned
    without   rows that may not be returned either, of this block or others
    """
    scales, errors, lengths = of_rows
    scale, length, error = of_query
    for i in range(bounds.shape[0]):
        bounds[i] = np.float32(products[i]) * (scale * scales[i]) + length * errors[i] + error * lengths[i]
    if keep.shape[0]:
        for i in range(bounds.shape[0]):
            bounds[i] = bounds[i] if keep[i] else NOTHING
    for row in without:
        if first <= row < first + bounds.shape[0]:
            bounds[row - first] = NOTHING


@numba.njit(cache=True, nogil=True)
def highest_of_chunks(bounds, highest):
    """Write the highest of every CHUNK bounds to `highest`: LANES maxima side by side, as the processor takes them."""
    lanes = np.empty(LANES, np.float32)
    for chunk in range(highest.shape[0]):
        part = bounds[chunk * CHUNK : (chunk + 1) * CHUNK]
        if part.shape[0] < CHUNK:
            highest[chunk] = part.max()
            continue
        for i in range(LANES):
            first, second = max(part[i], part[LANES + i]), max(part[2 * LANES + i], part[3 * LANES + i])
            lanes[i] = max(first, second)
        best = lanes[0]
        for i in range(1, LANES):
            best = max(best, lanes[i])
        highest[chunk] = best


@numba.njit(cache=True, nogil=True)
def kth_highest(values, k, scratch):
    """Return the k-th highest of the values (Hoare's selection); `scratch` is as long as they are."""
    scratch[: values.shape[0]] = values
    low, high, wanted = 0, values.shape[0] - 1, k - 1
    while low < high:
        pivot, i, j = scratch[(low + high) // 2], low, high
        while i <= j:
            while scratch[i] > pivot:
                i += 1
            while scratch[j] < pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return scratch[wanted]


@numba.njit(cache=True, nogil=True)
def insert(row, score, best_rows, best_scores, found):
    """Put a row in its place among the `found` best, best first, ties to the smaller row; return how many there are."""
    k = best_rows.shape[0]
    if found == k and not (score > best_scores[k - 1] or (score == best_scores[k - 1] and row < best_rows[k - 1])):
        return found
    place = min(found, k - 1)
    while place > 0 and (
        score > best_scores[place - 1] or (score == best_scores[place - 1] and row < best_rows[place - 1])
    ):
        best_rows[place], best_scores[place] = best_rows[place - 1], best_scores[place - 1]
        place -= 1
    best_rows[place], best_scores[place] = row, score
    return min(found + 1, k)


@numba.njit(cache=True, nogil=True)
def best_of_rows(rows, query, vectors, best_rows, best_scores):
    """Write the best of these rows to `best_rows` and `best_scores` (k,); return how many there are."""
    products, found = np.empty(query.shape[0], np.float64), 0
    for row in rows:
        found = insert(row, exact_score(query, vectors[row], products), best_rows, best_scores, found)
    return found


@numba.njit(cache=True, nogil=True)
def best_of_batch(products, first, of_rows, of_queries, allowed, queries, vectors, ks, best_rows, best_scores, found):
    """Take the rows of a block among the best of each of B queries: one call for all of them, without Python's lock.

    products               (B, n) int32 or float32: inner products of the codes of queries and rows
    of_rows                as `bounds_of` takes them
    of_queries             (B,) each: scales, lengths, errors (`bounds_of`), slacks, rough errors (`best_of_block`)
    allowed                masks (U, n); (B,) which of them holds for a query, -1 for none; rows that may not be
                           returned either, one query's after the other's; (B + 1,) where these begin and end
    ks                     (B,) how many rows are wanted
    best_rows, best_scores (B, K) and found (B,): the best so far, best first, and how many
    """
    scales, lengths, errors, slacks, rough = of_queries
    masks, mask_of, without, ends = allowed
    bounds, nothing = np.empty(products.shape[1], np.float32), np.empty(0, np.bool_)
    for i in range(queries.shape[0]):
        keep = masks[mask_of[i]] if mask_of[i] >= 0 else nothing
        left_out = without[ends[i] : ends[i + 1]]
        bounds_of(products[i], first, of_rows, (scales[i], lengths[i], errors[i]), keep, left_out, bounds)
        rows, scores = best_rows[i, : ks[i]], best_scores[i, : ks[i]]
        found[i] = best_of_block(bounds, first, queries[i], vectors, slacks[i], rough[i], rows, scores, found[i])


@numba.njit(cache=True, nogil=True)
def best_of_block(bounds, first, query, vectors, slack, error, best_rows, best_scores, found):
    """Take the rows of a block among the best (k,), and return how many of these there are.

    bounds    (n,) float32: bounds[i] + slack is nowhere below the score of row first + i; -inf for rows left out
    error     how far a rough score can be from the exact one
    found     how many of best_rows, best_scores (k,), best first, are there from earlier blocks
    """
    k = best_rows.shape[0]
    chunks = (bounds.shape[0] + CHUNK - 1) // CHUNK
    highest = np.empty(chunks, np.float32)
    highest_of_chunks(bounds, highest)
    products = np.empty(query.shape[0], np.float64)
    looked = np.inf  # rows of higher bounds were looked at
    if found < k:
        # As many chunks as are wanted rows hold a bound of at least this, so at least as many rows do.
        looked = kth_highest(highest, k, np.empty(chunks, np.float32)) if k < chunks else NOTHING
        found = _first(bounds, first, highest, looked, query, vectors, error, products, best_rows, best_scores, found)
    worst = best_scores[k - 1] if found == k else NOTHING
    for chunk in range(chunks):
        if highest[chunk] >= worst - slack and highest[chunk] > NOTHING:
            for i in range(chunk * CHUNK, min(bounds.shape[0], (chunk + 1) * CHUNK)):
                if worst - slack <= bounds[i] < looked and bounds[i] > NOTHING:
                    row = first + i
                    if rough_score(query, vectors[row]) >= worst - error:
                        score = exact_score(query, vectors[row], products)
                        found = insert(row, score, best_rows, best_scores, found)
                        worst = best_scores[k - 1] if found == k else NOTHING
    return found


@numba.njit(cache=True, nogil=True)
def _first(bounds, first, highest, least_bound, query, vectors, error, products, best_rows, best_scores, found):
    """Take the rows of the highest bounds among the best: roughly first, and exactly those that may be among them."""
    rows, rough, n = np.empty(bounds.shape[0], np.int64), np.empty(bounds.shape[0], np.float32), 0
    for chunk in range(highest.shape[0]):
        if highest[chunk] >= least_bound and highest[chunk] > NOTHING:
            for i in range(chunk * CHUNK, min(bounds.shape[0], (chunk + 1) * CHUNK)):
                if bounds[i] >= least_bound and bounds[i] > NOTHING:
                    rows[n], rough[n] = first + i, rough_score(query, vectors[first + i])
                    n += 1
    k = best_rows.shape[0]
    least = NOTHING
    if n > k:
        least = kth_highest(rough[:n], k, np.empty(n, np.float32)) - 2 * error
    for i in range(n):
        if rough[i] >= least:
            found = insert(rows[i], exact_score(query, vectors[rows[i]], products), best_rows, best_scores, found)
    return found
