"""Inner products of int8 numbers by one instruction of AVX2, which numba does not find by itself.

vpmaddwd multiplies sixteen pairs of int16 numbers and adds neighbours, exactly; an instruction for float32 multiplies
eight, and codes have to become float32 first. Two queries by four rows are what sixteen registers hold.
"""

from functools import cache
from itertools import product

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from semrec_ray.search.llvm import called, has

LANES = 16  # numbers multiplied by one instruction
QUERIES, ROWS = 2, 4  # of a tile
STRIP = 32  # rows that all queries meet before the next ones are read, a multiple of ROWS: they stay in the L1 cache

INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
BYTES, SHORTS, SUMS = ir.VectorType(INT8, LANES), ir.VectorType(INT16, LANES), ir.VectorType(INT32, LANES // 2)


@cache
def has_avx2() -> bool:
    """Return whether the processor has AVX2, and numba compiles for it."""
    return has("avx2")


def _tile_of(rows):
    """Return what writes the products of QUERIES queries and so many rows, for compiled code.

    It takes addresses: of queries, int16; of codes, int8; of products, int32. Then the width of queries and codes, a
    multiple of LANES, and how many products there are of each query.
    """

    @intrinsic
    def tile(_, queries, codes, products, width, count):
        return types.void(*[types.intp] * 5), generate

    def generate(context, builder, _, given):
        *addresses, width, count = given
        kinds = (INT16, INT8, INT32)
        queries, codes, products = (
            builder.inttoptr(address, kind.as_pointer()) for address, kind in zip(addresses, kinds, strict=True)
        )
        before, loop, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        first = builder.phi(INT64)  # of the LANES numbers at hand
        first.add_incoming(INT64(0), before)
        totals = [builder.phi(SUMS) for _ in range(QUERIES * rows)]

        def numbers(of, row, kind):
            place = builder.gep(of, [builder.add(builder.mul(width, INT64(row)), first)])
            return builder.load(builder.bitcast(place, kind.as_pointer()), align=1)

        of_rows = [builder.sext(numbers(codes, row, BYTES), SHORTS) for row in range(rows)]
        of_queries = [numbers(queries, query, SHORTS) for query in range(QUERIES)]
        sums = []
        for total, pair in zip(totals, product(of_queries, of_rows), strict=True):
            sums.append(builder.add(total, called(builder, "llvm.x86.avx2.pmadd.wd", SUMS, pair)))
            total.add_incoming(ir.Constant(SUMS, [0] * (LANES // 2)), before)
            total.add_incoming(sums[-1], loop)
        following = builder.add(first, INT64(LANES))
        first.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, width), loop, end)
        builder.position_at_end(end)
        for (query, row), total in zip(product(range(QUERIES), range(rows)), sums, strict=True):
            place = builder.gep(products, [builder.add(builder.mul(count, INT64(query)), INT64(row))])
            builder.store(called(builder, f"llvm.vector.reduce.add.v{LANES // 2}i32", INT32, [total]), place)
        return context.get_dummy_value()

    return tile


_tile, _row = _tile_of(ROWS), _tile_of(1)


@numba.njit(cache=True, nogil=True)
def multiply(queries, codes, products):
    """Write the inner products (B, N) int32 of queries (B, W) int16 and codes (N, W) int8.

    All are contiguous, B >= QUERIES, W a multiple of LANES; queries hold what int8 numbers can be.
    """
    n, width = codes.shape
    last = queries.shape[0] - QUERIES
    of_queries, of_codes, of_products = queries.ctypes.data, codes.ctypes.data, products.ctypes.data
    for strip in range(0, n, STRIP):
        end = min(n, strip + STRIP)
        for each in range(0, queries.shape[0], QUERIES):
            query = min(each, last)  # of an odd number, one is multiplied twice
            asked, answers = of_queries + query * width * 2, of_products + query * n * 4
            row = strip
            while row + ROWS <= end:
                _tile(asked, of_codes + row * width, answers + row * 4, width, n)
                row += ROWS
            while row < end:
                _row(asked, of_codes + row * width, answers + row * 4, width, n)
                row += 1
