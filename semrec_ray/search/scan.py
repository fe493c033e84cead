"""The loops of the pruned search, compiled by numba: upper bounds of scores in, the exact best rows out.

What is compiled here gives the very bits of `exact.exact_scores`: products of float32 values are exact in float64, and
they are added by folding halves. Only the bounds are allowed to be rough, in float32 and in any order.
"""

import numba
import numpy as np

CHUNK = 64  # rows whose highest product is looked at first
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
def bound(product, of_query, error, length):
    """Return no less than the score of a row, but for a slack: see `prefixes.py`.

    product        of the codes of query and row, times the row's scale
    of_query       scale, length of the code times that, error of the query's
    error, length  of the row's code, or the largest of several rows: then of the highest of their products
    """
    scale, code_length, away = of_query
    return product * scale + code_length * error + away * length


@numba.njit(cache=True, nogil=True)
def leave_out(products, nothing, first, keep, without):
    """Set the products (n,) of rows that may not be returned to `nothing`, which is below all others.

    keep     (n,) bool, or empty where every row may be returned
    without  rows that may not be returned either, of this block, whose first is `first`, or others
    """
    if keep.shape[0]:
        for i in range(products.shape[0]):
            products[i] = products[i] if keep[i] else nothing
    for row in without:
        if first <= row < first + products.shape[0]:
            products[row - first] = nothing


@numba.njit(cache=True, nogil=True)
def highest_of_chunks(products, scales, highest):
    """Write the highest product times scale of every CHUNK: LANES maxima side by side, as the processor takes them."""
    lanes = np.empty(LANES, np.float32)
    for chunk in range(highest.shape[0]):
        part, of = products[chunk * CHUNK : (chunk + 1) * CHUNK], scales[chunk * CHUNK : (chunk + 1) * CHUNK]
        best = NOTHING
        if part.shape[0] < CHUNK:
            for i in range(part.shape[0]):
                best = max(best, np.float32(part[i]) * of[i])
            highest[chunk] = best
            continue
        for i in range(LANES):
            a, b = np.float32(part[i]) * of[i], np.float32(part[LANES + i]) * of[LANES + i]
            c = np.float32(part[2 * LANES + i]) * of[2 * LANES + i]
            d = np.float32(part[3 * LANES + i]) * of[3 * LANES + i]
            lanes[i] = max(max(a, b), max(c, d))
        for i in range(LANES):
            best = max(best, lanes[i])
        highest[chunk] = best


@numba.njit(cache=True, nogil=True)
def kth_highest(values, k, scratch):
    """Return the k-th highest of the values (Hoare's selection); `scratch` is at least as long."""
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
def best_of_batch(
    products, nothing, first, of_rows, of_queries, allowed, queries, vectors, ks, best_rows, best_scores, found
):
    """Take the rows of a block among the best of each of B queries: one call for all of them, without Python's lock.

    products               (B, n) int32 or float32: inner products of the codes of queries and rows; overwritten
    nothing                less than any of them, of their type
    first                  the first row of the block, a multiple of CHUNK
    of_rows                (n,) float32 each: scales, errors, lengths of the rows' codes (`prefixes.Codes`); and the
                           largest errors and lengths of every CHUNK rows
    of_queries             (B,) each: scales, lengths, errors (`bound`), slacks, rough errors (`best_of_block`)
    allowed                masks (U, n); (B,) which of them holds for a query, -1 for none; rows that may not be
                           returned either, one query's after the other's; (B + 1,) where these begin and end
    ks                     (B,) how many rows are wanted
    best_rows, best_scores (B, K) and found (B,): the best so far, best first, and how many
    """
    scales, lengths, errors, slacks, rough = of_queries
    masks, mask_of, without, ends = allowed
    everything, scratch = np.empty(0, np.bool_), scratch_for(products.shape[1], queries.shape[1])
    for i in range(queries.shape[0]):
        keep = masks[mask_of[i]] if mask_of[i] >= 0 else everything
        leave_out(products[i], nothing, first, keep, without[ends[i] : ends[i + 1]])
        asked = queries[i], (scales[i], lengths[i], errors[i]), slacks[i], rough[i]
        best = best_rows[i, : ks[i]], best_scores[i, : ks[i]]
        found[i] = best_of_block(products[i], nothing, first, of_rows, asked, vectors, best, found[i], scratch)


@numba.njit(cache=True, nogil=True)
def scratch_for(n, dims):
    """Return what the search of n rows writes to, for one query after the other: fresh memory costs what they cost.

    The highest product of every chunk; numbers to select from; rows and their rough scores; products of one row.
    """
    chunks = (n + CHUNK - 1) // CHUNK
    numbers, rows, rough = np.empty(n, np.float32), np.empty(n, np.int64), np.empty(n, np.float32)
    return np.empty(chunks, np.float32), numbers, rows, rough, np.empty(dims, np.float64)


@numba.njit(cache=True, nogil=True)
def best_of_block(products, nothing, first, of_rows, asked, vectors, best, found, scratch):
    """Take the rows of a block among the best of one query, and return how many of these there are.

    asked  the query; what `bound` takes of it; a bound may be too low by the next; a rough score is off by the last
    best   rows and scores (k,) each, best first, of which `found` are there from earlier blocks
    """
    query, of_query, slack, error = asked
    scales, errors, lengths, chunk_errors, chunk_lengths = of_rows
    best_rows, best_scores = best
    highest, numbers, _, _, exact = scratch
    k, n, chunks = best_rows.shape[0], products.shape[0], highest.shape[0]
    highest_of_chunks(products, scales, highest)
    looked = np.float32(np.inf)  # rows of no less were looked at
    if found < k:
        # As many chunks as are wanted rows hold a product of at least this, so at least as many rows do.
        looked = kth_highest(highest, k, numbers) if k < chunks else NOTHING
        found = _first(products, nothing, first, scales, looked, asked, vectors, best, found, scratch)
    worst = best_scores[k - 1] if found == k else NOTHING
    for chunk in range(chunks):
        if bound(highest[chunk], of_query, chunk_errors[chunk], chunk_lengths[chunk]) >= worst - slack:
            for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
                product = np.float32(products[i]) * scales[i]
                if product >= looked or products[i] == nothing:
                    continue
                if bound(product, of_query, errors[i], lengths[i]) < worst - slack:
                    continue
                if rough_score(query, vectors[first + i]) >= worst - error:
                    score = exact_score(query, vectors[first + i], exact)
                    found = insert(first + i, score, best_rows, best_scores, found)
                    worst = best_scores[k - 1] if found == k else NOTHING
    return found


@numba.njit(cache=True, nogil=True)
def _first(products, nothing, first, scales, least, asked, vectors, best, found, scratch):
    """Take the rows of no less products among the best: roughly first, and exactly those that may be among them."""
    query, _, _, error = asked
    best_rows, best_scores = best
    highest, numbers, rows, rough, exact = scratch
    n = 0
    for chunk in range(highest.shape[0]):
        if highest[chunk] >= least:
            for i in range(chunk * CHUNK, min(products.shape[0], (chunk + 1) * CHUNK)):
                if products[i] != nothing and np.float32(products[i]) * scales[i] >= least:
                    rows[n], rough[n] = first + i, rough_score(query, vectors[first + i])
                    n += 1
    k = best_rows.shape[0]
    enough = NOTHING
    if n > k:
        enough = kth_highest(rough[:n], k, numbers) - 2 * error
    for i in range(n):
        if rough[i] >= enough:
            found = insert(rows[i], exact_score(query, vectors[rows[i]], exact), best_rows, best_scores, found)
    return found
