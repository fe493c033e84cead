"""The loops of the pruned search, compiled by numba: upper bounds of scores in, the exact best rows out.

What is compiled here gives the very bits of `exact.exact_scores`: products of float32 values are exact in float64, and
they are added by folding halves. Only the bounds are allowed to be rough, in float32 and in any order.
"""

import numba
import numpy as np
from numba.extending import overload

from semrec_ray.search import vnni

WORD = 64  # rows that one number tells of, whether they count; and of the longest chunk
LANES = WORD // 4
PACKED = 4  # dimensions of packed codes
FOLDED = 8  # groups for each of the highest that are looked for
AHEAD = 4  # chunks: as long as memory takes
MANY = 256  # rows are scored before more of them are gathered: what they show leaves others out
EVERY = np.uint64(2**64 - 1)  # row of a chunk counts
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
    half, low = (width + 1) // 2, width // 2
    ones, others = (query[:low], row[:low]), (query[half:width], row[half:width])  # slices: no index can be negative
    for i in range(low):  # the products, and the first fold of them
        one, other = (
            np.float64(ones[0][i]) * np.float64(ones[1][i]),
            np.float64(others[0][i]) * np.float64(others[1][i]),
        )
        products[i] = one + other
    if low < half:
        products[low] = np.float64(query[low]) * np.float64(row[low])
    width = half
    while width > 1:
        half, low = (width + 1) // 2, width // 2
        sums, added = products[:low], products[half:width]
        for i in range(low):
            sums[i] += added[i]
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
def leave_out(words, place, rows):
    """Let rows, counted from the first one of a block, or beyond it, no longer count in the words (U, C) of a place."""
    for row in rows:
        if 0 <= row < words.shape[1] * WORD:
            words[place, row // WORD] &= ~(np.uint64(1) << np.uint64(row % WORD))


@numba.njit(cache=True, nogil=True)
def counts(words, row):
    """Return whether a row of a block counts."""
    return (words[row // WORD] >> np.uint64(row % WORD)) & np.uint64(1) != 0


@numba.njit(cache=True, nogil=True)
def highest_of_chunks(products, scales, words, word_of, highest):
    """Write the highest of every WORD products (B, n) times scales, -inf where none counts, to (B, C or more).

    LANES maxima side by side, as the processor takes them, where all rows count.
    """
    lanes, n = np.empty(LANES, np.float32), products.shape[1]
    for query in range(products.shape[0]):
        for chunk in range((n + WORD - 1) // WORD):
            start = chunk * WORD
            part, of = products[query, start : start + WORD], scales[start : start + WORD]
            word, best = words[word_of[query], chunk], NOTHING
            if word == EVERY:
                for i in range(LANES):
                    a, b = np.float32(part[i]) * of[i], np.float32(part[LANES + i]) * of[LANES + i]
                    c = np.float32(part[2 * LANES + i]) * of[2 * LANES + i]
                    d = np.float32(part[3 * LANES + i]) * of[3 * LANES + i]
                    lanes[i] = max(max(a, b), max(c, d))
                for i in range(LANES):
                    best = max(best, lanes[i])
            elif word:
                for i in range(part.shape[0]):
                    if counts(words[word_of[query]], start + i):
                        best = max(best, np.float32(part[i]) * of[i])
            highest[query, chunk] = best


def products_of_chunk(multiplied, query, source, scales, chunk, ahead, products):
    """Write a query's products with the rows of a chunk, times their scales, to (WORD,) float32, for compiled code.

    multiplied  (B, W) numbers and (B,) what their sums begin with
    source      packed codes (`vnni.pack`), whose chunks are shorter; or products (B, n): fewer are written where n ends
    ahead       a chunk that is wanted soon
    """
    raise NotImplementedError("it is for compiled code alone")


@overload(products_of_chunk)
def _products_of_chunk(multiplied, query, source, scales, chunk, ahead, products):
    if source.ndim == PACKED:
        return lambda multiplied, query, source, scales, chunk, ahead, products: vnni.products_of_chunk(
            multiplied[0], multiplied[1], query, source, scales, chunk, ahead, products
        )

    def kept(multiplied, query, source, scales, chunk, ahead, products):
        start = chunk * WORD
        part, of = source[query, start : start + WORD], scales[start : start + WORD]
        for i in range(part.shape[0]):
            products[i] = np.float32(part[i]) * of[i]

    return kept


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
def kth_highest_at_least(values, k, folded, scratch):
    """Return no more than the k-th highest of more than k values, and hardly less: at least k values are as high.

    It is that of the maxima of groups, of which there are FOLDED for each of k or more: few of the k share one.
    """
    n = values.shape[0]
    if n < 2 * FOLDED * k:
        return kth_highest(values, k, scratch)
    half = n // 2
    np.maximum(values[:half], values[half : 2 * half], folded[:half])
    if n % 2:
        folded[0] = max(folded[0], values[n - 1])
    while half >= 2 * FOLDED * k:
        n, half = half, half // 2
        np.maximum(folded[:half], folded[half : 2 * half], folded[:half])
        if n % 2:
            folded[0] = max(folded[0], folded[n - 1])
    return kth_highest(folded[:half], k, scratch)


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
def best_of_batch(of_chunks, first, asked, of_rows, counted, queries, vectors, ks, best_rows, best_scores, found):
    """Take the rows of a block among the best of each of B queries: one call for all of them, without Python's lock.

    of_chunks  (B, C or more) float32, the highest of each chunk's products (`products.Way.highest`); rows of one
    first      the first row of the block
    asked      (B, W) numbers and (B,) what their sums begin with, as they were multiplied; then (B,) each: scales,
               lengths, errors (`bound`), slacks, rough errors (`best_of_block`)
    of_rows    where `products_of_chunk` has products from, scales; (n,) float32 each: errors, lengths of the codes of
               rows (`prefixes.Codes`); (C,) the largest errors and lengths of each chunk
    counted    words (U, n / WORD) and word_of (B,) of the rows that count (`products.Counted`)
    ks         (B,) how many rows are wanted
    best_rows, best_scores (B, K), found (B,): the best so far, best first, and how many there are
    """
    numbers, begins, scales, lengths, errors, slacks, rough = asked
    words, word_of = counted
    highest, size = of_chunks
    n = words.shape[1] * WORD
    chunks = n // size
    # What is written for one query after the other: fresh memory costs what they cost.
    scratch = (
        (
            np.empty(chunks, np.int64),
            np.empty(chunks, np.float32),
            np.empty((chunks, size), np.float32),
            np.empty((2, size), np.float32),
        ),
        (np.empty(n + 1, np.int64), np.empty(n, np.float32), np.empty(n, np.float32), np.empty(queries.shape[1])),
    )
    for i in range(queries.shape[0]):
        of_query = (numbers, begins), i, (scales[i], lengths[i], errors[i]), slacks[i]
        best = best_rows[i, : ks[i]], best_scores[i, : ks[i]]
        of_vectors = queries[i], vectors, rough[i]
        of_block = highest[i, :chunks], size, words[word_of[i]], first
        found[i] = best_of_block(of_block, of_query, of_rows, of_vectors, best, found[i], scratch)


@numba.njit(cache=True, nogil=True)
def best_of_block(of_block, asked, of_rows, of_vectors, best, found, scratch):
    """Take the rows of a block among the best of one query, and return how many of these there are.

    of_block    the highest product of each chunk (C,); rows of a chunk; the words of those that count; the first row
    asked       the queries as they are multiplied; which of them; what `bound` takes of it; a bound may be too low by
                the next
    of_vectors  the query, all vectors; a rough score may be off by the next
    best        rows and scores (k,) each, best first, of which `found` are there from earlier blocks
    """
    multiplied, query, of_query, slack = asked
    source, scales, _, _, chunk_errors, chunk_lengths = of_rows
    highest = of_block[0]
    (chunks, bounds, kept, work), (rows, _, _, _) = scratch
    looked, n_kept = np.float32(np.inf), 0  # rows of no less are looked at; chunks whose products are kept
    if found < best[0].shape[0]:
        looked, n_kept, found = look_at_highest(of_block, asked, of_rows, of_vectors, best, found, scratch)
    least, n = worst_of(best, found) - slack, 0
    for chunk in range(highest.shape[0]):
        bounds[chunk] = bound(highest[chunk], of_query, chunk_errors[chunk], chunk_lengths[chunk])
    for place in range(n_kept):
        chunk = chunks[place]
        if bounds[chunk] >= least:
            n = candidates(chunk, kept[place], looked, least, of_block, of_query, of_rows, rows, n, work[1])
    n_others = 0
    for chunk in range(highest.shape[0]):
        if bounds[chunk] >= least and highest[chunk] < looked and highest[chunk] != NOTHING:
            chunks[n_others] = chunk
            n_others += 1
    for place in range(n_others):
        chunk, ahead, products = chunks[place], chunks[min(place + AHEAD, n_others - 1)], work[0]
        products_of_chunk(multiplied, query, source, scales, chunk, ahead, products)
        n = candidates(chunk, products, looked, least, of_block, of_query, of_rows, rows, n, work[1])
        if n >= MANY:
            found, n = best_of_rows_roughly(rows[:n], of_vectors, best, found, scratch[1]), 0
            least = worst_of(best, found) - slack
    return best_of_rows_roughly(rows[:n], of_vectors, best, found, scratch[1])


@numba.njit(cache=True, nogil=True)
def look_at_highest(of_block, asked, of_rows, of_vectors, best, found, scratch):
    """Take as many rows of the highest products among the best as are wanted, at least, where there are so many.

    Return the least of these products, how many chunks have one, and how many of the best there are. The chunks, and
    all their products, are kept in scratch memory.
    """
    multiplied, query, _, _ = asked
    source, scales, _, _, _, _ = of_rows
    highest, size, words, first = of_block
    (chunks, folded, kept, _), (rows, _, selected, _) = scratch
    k, n, n_kept = best[0].shape[0], 0, 0
    # As many chunks as are wanted rows hold a product of at least this, so at least as many rows do.
    looked = kth_highest_at_least(highest, k, folded, selected) if k < highest.shape[0] else NOTHING
    for chunk in range(highest.shape[0]):
        if highest[chunk] >= looked and highest[chunk] != NOTHING:
            chunks[n_kept] = chunk
            n_kept += 1
    for place in range(n_kept):
        chunk, ahead, products = chunks[place], chunks[min(place + AHEAD, n_kept - 1)], kept[place]
        products_of_chunk(multiplied, query, source, scales, chunk, ahead, products)
        for i in range(size):
            rows[n] = first + chunk * size + i
            n += products[i] >= looked and counts(words, chunk * size + i)
    return looked, n_kept, best_of_rows_roughly(rows[:n], of_vectors, best, found, scratch[1])


@numba.njit(cache=True, nogil=True)
def worst_of(best, found):
    """Return the score of the last one that is wanted, -inf where there are fewer."""
    return best[1][found - 1] if found == best[1].shape[0] else NOTHING


@numba.njit(cache=True, nogil=True)
def candidates(chunk, products, below, least, of_block, of_query, of_rows, rows, n, bounds):
    """Write rows of a chunk behind n others: those that count, of products below it, of bounds not below the least."""
    _, size, words, first = of_block
    _, _, errors, lengths, _, _ = of_rows
    start = chunk * size
    count = min(size, errors.shape[0] - start)
    of_errors, of_lengths = errors[start : start + count], lengths[start : start + count]
    for i in range(count):
        bounds[i] = bound(products[i], of_query, of_errors[i], of_lengths[i])
    for i in range(count):
        if bounds[i] >= least and products[i] < below and counts(words, start + i):
            rows[n] = first + start + i
            n += 1
    return n


@numba.njit(cache=True, nogil=True)
def best_of_rows_roughly(rows, of_vectors, best, found, scratch):
    """Take rows among the best: roughly first, and exactly those that may be among them; return how many there are."""
    query, vectors, error = of_vectors
    best_rows, best_scores = best
    _, rough, selected, exact = scratch
    k, n = best_rows.shape[0], rows.shape[0]
    for i in range(n):
        rough[i] = rough_score(query, vectors[rows[i]])
    enough = worst_of(best, found) - error
    if found < k < n:
        enough = kth_highest(rough[:n], k, selected) - 2 * error
    for i in range(n):
        if rough[i] >= enough:
            found = insert(rows[i], exact_score(query, vectors[rows[i]], exact), best_rows, best_scores, found)
            enough = max(enough, worst_of(best, found) - error)
    return found
