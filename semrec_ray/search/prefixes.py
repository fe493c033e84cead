"""Vectors in, short codes out whose inner products bound those of the vectors from above.

The vectors are turned to the principal axes of a catalog. Of a vector v the first M coordinates are kept, and one more:
the length of all the others. By Cauchy and Schwarz the inner product of two such prefixes p is an upper bound:

    <q, v> = <q_1..M, v_1..M> + <q_rest, v_rest> <= <q_1..M, v_1..M> + |q_rest| |v_rest| = <p_q, p_v>

Prefixes are turned once more, at random: that changes no inner product, and spreads what is in the few strong
coordinates over all of them, so that int8 codes with one scale a vector lose half as much. What they lose is known:

    p_v = scale code + lost,  |lost| <= error
    <p_q, p_v> <= scale_q scale_v <code_q, code_v> + |scale_q code_q| error_v + error_q |p_v|
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.types import Vector

Doubles = npt.NDArray[np.float64]

AT_ONCE = 2**14  # vectors turned at once
ALIGNED = 16  # numbers: the width of codes is a multiple of it
STEPS = 127  # of an int8 on either side of 0
UP = np.float32(1.0 + 1e-6)  # of float64 numbers rounded to float32 that must not become less
LEAST = np.float32(2.0**-120)  # nor where they vanish


@dataclass(frozen=True, slots=True)
class Turn:
    """How vectors of D dimensions become prefixes of W >= M + 1."""

    axes: torch.Tensor  # (D, W) float64: the M axes, turned at random
    rest: Doubles  # (W,) where the length of the rest goes

    @property
    def width(self) -> int:
        """Return W."""
        return len(self.rest)

    def __call__(self, vectors: Vector) -> Doubles:
        """Return the prefixes (B, W) of vectors (B, D)."""
        whole = vectors.astype(np.float64)
        # By torch, whose threads a shard has bounded: numpy's own would be many for few rows.
        first = (torch.from_numpy(whole) @ self.axes).numpy()
        squares = np.einsum("bd,bd->b", whole, whole)
        rest = np.sqrt(np.clip(squares - np.einsum("bm,bm->b", first, first), 0.0, None))
        # A little more than it is: the difference of two squares loses half of their digits.
        first += (rest * (1.0 + 1e-6) + 1e-7 * np.sqrt(squares))[:, None] * self.rest
        return np.asarray(first)


@dataclass(frozen=True, slots=True)
class Codes:
    """N prefixes p: scales[n] codes[n] is not farther than errors[n] from p[n]."""

    codes: npt.NDArray[np.int8]  # (N, W)
    scales: Vector  # (N,)
    errors: Vector  # (N,)
    lengths: Vector  # (N,) no less than |p|


def turn_to(axes: torch.Tensor, kept: int) -> Turn:
    """Return the turn to the first M = `kept` of orthonormal axes (D, D), float64; W is M + 1 rounded up."""
    width = -(-(kept + 1) // ALIGNED) * ALIGNED
    turned = _random_turn(width)
    return Turn((axes[:, :kept] @ turned[:kept]).contiguous(), turned[kept].numpy())


@lru_cache(maxsize=16)
def _random_turn(width: int) -> torch.Tensor:
    """Return an orthonormal matrix (W, W), float64; by torch, since numpy's would keep Python's lock meanwhile."""
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).normal(size=(width, width))))[0]


def principal_axes(vectors: Vector) -> torch.Tensor:
    """Return the eigenvectors of the rows' second moments, (D, D) float64 as columns, the strongest first."""
    gram = torch.zeros((vectors.shape[1],) * 2, dtype=torch.float64)
    for first in range(0, len(vectors), AT_ONCE):
        block = torch.from_numpy(vectors[first : first + AT_ONCE]).double()
        gram += block.T @ block
    return torch.linalg.eigh(gram)[1].flip(1)


def coded(vectors: Vector, turn: Turn) -> Codes:
    """Return the codes of vectors (N, D)."""
    n = len(vectors)
    codes = Codes(np.empty((n, turn.width), np.int8), *(np.empty(n, np.float32) for _ in range(3)))
    for first in range(0, n, AT_ONCE):
        block = slice(first, first + AT_ONCE)
        whole = turn(vectors[block])
        steps, scales = codes_of(whole)
        codes.codes[block], codes.scales[block] = steps, scales
        codes.errors[block] = rounded_up(lengths_of(whole - steps * scales.astype(np.float64)[:, None]))
        codes.lengths[block] = rounded_up(lengths_of(whole))
    return codes


def codes_of(prefixes: Doubles) -> tuple[npt.NDArray[np.int8], Vector]:
    """Return the int8 codes and the scales of prefixes (B, W)."""
    scales = (np.abs(prefixes).max(axis=1) / STEPS).astype(np.float32)
    steps = np.rint(prefixes / np.where(scales > 0, scales, 1.0)[:, None])
    return steps.clip(-STEPS, STEPS).astype(np.int8), scales


def lengths_of(rows: npt.NDArray[np.floating]) -> Doubles:
    """Return the Euclidean lengths (N,) of rows (N, D)."""
    return np.asarray(np.sqrt(np.einsum("bd,bd->b", rows, rows, dtype=np.float64)))


def rounded_up(numbers: Doubles) -> Vector:
    """Return numbers >= 0 as float32 that are no less."""
    return numbers.astype(np.float32) * UP + LEAST
