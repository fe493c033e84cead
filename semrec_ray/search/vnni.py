"""Inner products of int8 numbers by one instruction of AVX-512 VNNI, which numba does not find by itself.

vpdpbusd multiplies 64 unsigned by 64 signed bytes and adds every four products to one of 16 sums, exactly. Codes lie
as it takes them, four numbers of a row beside those of the next row: a sum is a row's, and nothing is left to add up.
They are unsigned, OFFSET more than they were, and every sum begins so much lower.

A tile is four chunks of sixteen rows by four queries. Of its products only the highest of each chunk is kept: all of
them would take as much memory as the codes, and few chunks are looked at again.
"""

import math
from functools import cache

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from semrec_ray.search.llvm import called, has

ROWS, DEEP = 16, 4  # of a chunk, which is what one register holds; numbers of each row
CHUNKS, QUERIES = 4, 4  # of a tile: sixteen registers of sums, of the 32 that there are
OFFSET = 128
CACHE_LINE = 64  # bytes

Packed = npt.NDArray[np.uint8]

BYTE, INT32, INT64, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
SUMS, FLOATS, BITS = (ir.VectorType(kind, ROWS) for kind in (INT32, FLOAT, ir.IntType(1)))


@cache
def has_vnni() -> bool:
    """Return whether the processor has AVX-512 VNNI, and numba compiles for it."""
    return has("avx512vnni")


def pack(codes: npt.NDArray[np.int8]) -> Packed:
    """Return codes (N, W), W a multiple of DEEP * DEEP, as tiles take them: (C, W / DEEP, ROWS, DEEP).

    There are the chunks of whole tiles: rows beyond N have codes of zeros.
    """
    n, width = codes.shape
    assert width % (DEEP * DEEP) == 0, "the width is no multiple of what a chunk takes at once"
    shape = -(-n // (ROWS * CHUNKS)) * CHUNKS, width // DEEP, ROWS, DEEP
    packed = _bytes(shape)
    packed.fill(OFFSET)
    for first in range(0, n, ROWS):
        part = codes[first : first + ROWS].view(np.uint8) ^ np.uint8(OFFSET)  # which adds it
        packed[first // ROWS, :, : len(part)] = part.reshape(len(part), width // DEEP, DEEP).swapaxes(0, 1)
    return packed


def _bytes(shape: tuple[int, ...]) -> Packed:
    """Return bytes that begin where a cache line does; on huge pages where the system has any, numpy asks for them."""
    size = math.prod(shape)
    room = np.empty(size + CACHE_LINE, np.uint8)
    first = -room.ctypes.data % CACHE_LINE
    return room[first : first + size].reshape(shape)


def _write_highest(builder, given, queries):
    """Build a tile of so many queries; see `write_highest`. It writes CHUNKS numbers for each, `stride` apart.

    given  addresses of the queries' numbers, of what their sums begin with, of the chunks, of their rows' scales; the
           width; the address to write to; the stride; for each query a word of the rows that count
    """
    numbers, begins, codes, scales, width, highest, stride, *words = given
    numbers, begins, codes, scales, highest = (
        builder.inttoptr(address, kind.as_pointer())
        for address, kind in ((numbers, BYTE), (begins, INT32), (codes, BYTE), (scales, FLOAT), (highest, FLOAT))
    )
    beginnings = [_splat(builder, builder.load(builder.gep(begins, [INT64(query)]))) for query in range(queries)]
    of_chunk = builder.mul(width, INT64(ROWS))  # bytes

    def multiplied(first, sums):
        at = builder.mul(first, INT64(ROWS))
        rows = [
            _loaded(builder, codes, builder.add(at, builder.mul(of_chunk, INT64(chunk))), SUMS)
            for chunk in range(CHUNKS)
        ]
        for query in range(queries):
            place = builder.add(builder.mul(width, INT64(query)), first)
            asked = _splat(builder, _loaded(builder, numbers, place, INT32))
            for chunk in range(CHUNKS):
                sums[query * CHUNKS + chunk] = _added(builder, sums[query * CHUNKS + chunk], rows[chunk], asked)
        return sums

    sums = _loop(builder, width, DEEP, [one for one in beginnings for _ in range(CHUNKS)], multiplied)
    none = ir.Constant(FLOATS, [float("-inf")] * ROWS)
    for query in range(queries):
        bits, best = builder.bitcast(words[query], ir.VectorType(ir.IntType(ROWS), CHUNKS)), []
        for chunk in range(CHUNKS):
            products = _scaled(builder, sums[query * CHUNKS + chunk], scales, chunk)
            counts = builder.bitcast(builder.extract_element(bits, INT32(chunk)), BITS)
            best.append(builder.select(counts, products, none))
        place = builder.gep(highest, [builder.mul(stride, INT64(query))])
        four = _highest_of_each(builder, best)
        builder.store(four, builder.bitcast(place, four.type.as_pointer()), align=4)


def _write_products(builder, given):
    """Build the products of a query and a chunk; see `products_of_chunk`. DEEP sums a row wait for each other less."""
    numbers, begins, codes, scales, width, ahead, products = given
    numbers, begins, codes, scales, ahead, products = (
        builder.inttoptr(address, kind.as_pointer())
        for address, kind in (
            (numbers, BYTE), (begins, INT32), (codes, BYTE), (scales, FLOAT), (ahead, BYTE), (products, FLOATS)
        )
    )  # fmt: skip
    zeros = [ir.Constant(SUMS, [0] * ROWS)] * (DEEP - 1)

    def multiplied(first, sums):
        for step in range(DEEP):
            number = builder.add(first, INT64(step * DEEP))
            at, asked = builder.mul(number, INT64(ROWS)), _splat(builder, _loaded(builder, numbers, number, INT32))
            sums[step] = _added(builder, sums[step], _loaded(builder, codes, at, SUMS), asked)
            _prefetch(builder, builder.gep(ahead, [at]))
        return sums

    one, other, *more = _loop(builder, width, DEEP * DEEP, [_splat(builder, builder.load(begins)), *zeros], multiplied)
    total = builder.add(builder.add(one, other), builder.add(*more))
    builder.store(_scaled(builder, total, scales, 0), products, align=1)


def _loop(builder, width, step, sums, body):
    """Build a loop over the numbers of a query, `step` at a time, and return what its sums are then."""
    before, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    first = builder.phi(INT64)
    first.add_incoming(INT64(0), before)
    totals = [builder.phi(SUMS) for _ in sums]
    added = body(first, list(totals))
    for total, beginning, one in zip(totals, sums, added, strict=True):
        total.add_incoming(beginning, before)
        total.add_incoming(one, loop)
    following = builder.add(first, INT64(step))
    first.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, width), loop, end)
    builder.position_at_end(end)
    return added


def _added(builder, sums, rows, asked):
    return called(builder, "llvm.x86.avx512.vpdpbusd.512", SUMS, (sums, rows, asked))


def _scaled(builder, sums, scales, chunk):
    return builder.fmul(builder.sitofp(sums, FLOATS), _loaded(builder, scales, INT64(chunk * ROWS * 4), FLOATS))


def _highest_of_each(builder, four):
    """Build the highest number of each of four registers, in a register of four."""

    def picked(one, other, places):
        return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(INT32, len(places)), places))

    def higher(one, other):
        return builder.select(builder.fcmp_ordered(">", one, other), one, other)

    while len(four) > 1:  # two registers become one, a half of it of each; then four become one
        part = ROWS // 2 * len(four) // CHUNKS
        low = [place for place in range(2 * ROWS) if place // part % 2 == 0]
        high = [place + part for place in low]
        pairs = zip(four[::2], four[1::2], strict=True)
        four = [higher(picked(one, other, low), picked(one, other, high)) for one, other in pairs]
    (both,) = four
    for apart in (2, 1):
        both = higher(both, picked(both, both, [place ^ apart for place in range(ROWS)]))
    return picked(both, both, [chunk * ROWS // CHUNKS for chunk in range(CHUNKS)])


def _splat(builder, value):
    """Return a number in every place of a register."""
    alone = builder.insert_element(ir.Constant(SUMS, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(alone, alone, ir.Constant(SUMS, [0] * ROWS))


def _loaded(builder, pointer, offset, kind):
    """Return what lies so many bytes behind a pointer."""
    at = builder.gep(builder.bitcast(pointer, BYTE.as_pointer()), [offset])
    return builder.load(builder.bitcast(at, kind.as_pointer()), align=1)


def _prefetch(builder, pointer):
    read, to_the_second_level, data = INT32(0), INT32(2), INT32(1)
    called(builder, "llvm.prefetch.p0", ir.VoidType(), (pointer, read, to_the_second_level, data))


def _built(write, *more):
    """Return how numba builds what returns nothing."""

    def generate(context, builder, _, given):
        write(builder, given, *more)
        return context.get_dummy_value()

    return generate


@intrinsic
def _tile(_, numbers, begins, codes, scales, width, highest, stride, word, second, third, fourth):
    return types.void(*[types.intp] * 7, *[types.uint64] * QUERIES), _built(_write_highest, QUERIES)


@intrinsic
def _one(_, numbers, begins, codes, scales, width, highest, stride, word):
    return types.void(*[types.intp] * 7, types.uint64), _built(_write_highest, 1)


@intrinsic
def _products(_, numbers, begins, codes, scales, width, ahead, products):
    return types.void(*[types.intp] * 7), _built(_write_products)


@numba.njit(cache=True, nogil=True)
def write_highest(numbers, begins, packed, scales, words, word_of, highest):
    """Write the highest of every chunk's products, times the rows' scales, of each query: -inf where none counts.

    numbers  (B, W) int8; begins (B,) int32, -OFFSET times the sum of each
    packed   the C chunks of `pack`, scales (C * ROWS,) float32
    words    (U, C / CHUNKS) uint64: the rows of a tile that count, the first one in the lowest bit; word_of (B,) whose
    highest  (B, C or more) float32

    All are contiguous.
    """
    b, width = numbers.shape
    stride, tiled = highest.shape[1], ROWS * CHUNKS
    of_numbers, of_begins, of_highest = numbers.ctypes.data, begins.ctypes.data, highest.ctypes.data
    of_codes, of_scales = packed.ctypes.data, scales.ctypes.data
    for tile in range(words.shape[1]):
        codes, of, out = of_codes + tile * tiled * width, of_scales + tile * tiled * 4, of_highest + tile * CHUNKS * 4
        if b < QUERIES:
            for i in range(b):
                to, word = out + i * stride * 4, words[word_of[i], tile]
                _one(of_numbers + i * width, of_begins + i * 4, codes, of, width, to, stride, word)
            continue
        for each in range(0, b, QUERIES):
            i = min(each, b - QUERIES)  # some of the last tile are done twice
            first, second = words[word_of[i], tile], words[word_of[i + 1], tile]
            third, fourth = words[word_of[i + 2], tile], words[word_of[i + 3], tile]
            to, asked, begin = out + i * stride * 4, of_numbers + i * width, of_begins + i * 4
            _tile(asked, begin, codes, of, width, to, stride, first, second, third, fourth)


@numba.njit(cache=True, nogil=True)
def products_of_chunk(numbers, begins, query, packed, scales, chunk, ahead, products):
    """Write a query's products with the rows of a chunk, times their scales, to (ROWS,) float32.

    Meanwhile the chunk `ahead` is brought into the cache.
    """
    width = numbers.shape[1]
    _products(
        numbers.ctypes.data + query * width,
        begins.ctypes.data + query * 4,
        packed.ctypes.data + chunk * ROWS * width,
        scales.ctypes.data + chunk * ROWS * 4,
        width,
        packed.ctypes.data + ahead * ROWS * width,
        products.ctypes.data,
    )
