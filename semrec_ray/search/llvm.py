"""What compiled code asks of LLVM itself, where numba finds no instruction: `avx2.py`, `vnni.py`."""

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target


def has(feature):
    """Return whether the processor has a feature, by LLVM's name of it, and numba compiles for it."""
    return f"+{feature}" in str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")


def called(builder, name, kind, given):
    """Build a call of one of LLVM's own functions, and return what it gives."""
    signature = ir.FunctionType(kind, [one.type for one in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), given)
