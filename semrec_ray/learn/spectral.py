"""A users x items matrix in, the strongest eigenpairs of its scaled item x item Gram matrix out, which is never made.

The matrix is cut into blocks of users. A Gram product is the sum over the blocks of Xb'(Xb Q), so memory is that of
the entries, of one block's image (users x Q) and of the item side (N x Q). On many machines the blocks are theirs,
and the sum is an all-reduce.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from semrec_ray.errors import InvalidRequest
from semrec_ray.types import Vector

BLOCK_USERS = 2**17
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interactions:
    """Who had to do with what: CSR with one row per user who did anything, every pair once, items ascending."""

    starts: Indices  # (U + 1,)
    items: Indices  # (entries,)
    weights: Vector  # (entries,) > 0
    n_items: int


def interactions(
    users: npt.NDArray[np.integer], items: npt.NDArray[np.integer], weights: Vector | None, n_items: int
) -> Interactions:
    """Return the matrix of events in any order, given as numbers of users and of items (0 … n_items - 1).

    Without weights a pair counts 1 however often it occurs; with weights it counts their sum, and events that weigh 0
    or less are left out. InvalidRequest for what is no number of an item or user, or no finite weight.
    """
    _check(users, items, weights, n_items)
    if weights is not None:
        kept = weights > 0
        users, items, weights = users[kept], items[kept], weights[kept]
    pairs = users.astype(np.int64) * n_items + items
    order = None if weights is None else np.argsort(pairs, kind="stable")
    pairs = np.sort(pairs) if order is None else pairs[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))  # not np.unique: it is ten times slower
    pairs, sums = pairs[firsts], np.ones(len(firsts), np.float32)
    if weights is not None and len(firsts):
        sums = np.add.reduceat(weights[order], firsts, dtype=np.float32)
    lengths = np.bincount(pairs // n_items) if len(pairs) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)
    return Interactions(starts, pairs % n_items if n_items else pairs, sums, n_items)


def _check(
    users: npt.NDArray[np.integer], items: npt.NDArray[np.integer], weights: Vector | None, n_items: int
) -> None:
    if not len(users) == len(items) == (len(items) if weights is None else len(weights)):
        raise InvalidRequest("users, items and weights of the events differ in length: give one of each per event")
    if len(items) and not 0 <= items.min() <= items.max() < n_items:
        wrong = int(items[(items < 0) | (items >= n_items)][0])
        raise InvalidRequest(f"event of item {wrong}, and there are {n_items} items: number them from 0")
    if len(users) and users.min() < 0:
        raise InvalidRequest(f"event of user {int(users.min())}: number the users from 0")
    if weights is not None and not np.isfinite(weights).all():
        raise InvalidRequest(f"event weight {weights[~np.isfinite(weights)][0]}: give finite weights, 0 for no event")


@dataclass(frozen=True, slots=True)
class ScaledMatrix:
    """A users x items matrix as torch CSR blocks of users, each beside its transpose."""

    blocks: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    users: int
    n_items: int

    def gram(self, right: torch.Tensor) -> torch.Tensor:
        """Return (X'X) right for `right` (N, Q)."""
        total = torch.zeros_like(right)
        for rows, columns in self.blocks:
            total += columns @ (rows @ right)
        return total

    def inner(self, right: torch.Tensor) -> torch.Tensor:
        """Return right' (X'X) right, (Q, Q) float64, for `right` (N, Q)."""
        total = torch.zeros(right.shape[1], right.shape[1], dtype=torch.float64, device=right.device)
        for rows, _ in self.blocks:
            image = rows @ right
            total += (image.T @ image).double()
        return total


def scaled_matrix(
    known: Interactions, of_user: npt.NDArray[np.float64], of_item: npt.NDArray[np.float64], device: str = "cpu"
) -> ScaledMatrix:
    """Return diag(of_user) X diag(of_item) on a torch device."""
    blocks, users = [], len(known.starts) - 1
    for first in range(0, users, BLOCK_USERS):
        starts = known.starts[first : first + BLOCK_USERS + 1]
        rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        items, weights = known.items[starts[0] : starts[-1]], known.weights[starts[0] : starts[-1]]
        values = (weights * of_user[first + rows] * of_item[items]).astype(np.float32)
        order = np.argsort(items, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(items, minlength=known.n_items))])
        shape = (len(starts) - 1, known.n_items)
        matrix = _csr(starts - starts[0], items, values, shape, device)
        blocks.append((matrix, _csr(ends, rows[order], values[order], shape[::-1], device)))
    return ScaledMatrix(tuple(blocks), users, known.n_items)


def _csr(starts: Indices, columns: Indices, values: Vector, shape: tuple[int, ...], device: str) -> torch.Tensor:
    # MKL takes 32-bit indices: 64-bit ones would be copied in every product
    kind = np.int32 if len(values) < 2**31 else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        parts = [torch.from_numpy(part) for part in (starts.astype(kind), columns.astype(kind), values)]
        return torch.sparse_csr_tensor(*parts, shape, check_invariants=True).to(device)


def eigenpairs(
    matrix: ScaledMatrix, dims: int, *, oversamples: int, iterations: int, seed: int
) -> tuple[npt.NDArray[np.float64], Vector]:
    """Return the largest eigenvalues of X'X, (D,) descending, and their unit eigenvectors (N, D) as columns.

    Block power iteration from a random start (Halko, Martinsson, Tropp, SIAM Review 2011), then Rayleigh-Ritz.
    D = min(dims, rank possible). In each vector the entry of largest size is positive: the same bits for the same seed
    and machine, whatever the number of threads.
    """
    size = min(dims + oversamples, matrix.users, matrix.n_items)
    if size == 0:
        return np.zeros(0), np.zeros((matrix.n_items, 0), np.float32)
    start = np.random.default_rng(seed).standard_normal((matrix.n_items, size), dtype=np.float32)
    basis = torch.from_numpy(start).to(matrix.blocks[0][0].device)
    for _ in range(iterations):
        basis = matrix.gram(_orthonormal(basis))
    basis = _orthonormal(basis)
    inner = matrix.inner(basis)
    with one_thread():
        values, mixing = torch.linalg.eigh(inner)
        top = torch.flip(mixing, [1])[:, : min(dims, size)]
        vectors = (basis @ top.float()).cpu().numpy()
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    found = torch.flip(values, [0])[: vectors.shape[1]].clamp(min=0).cpu().numpy()
    return found, np.asarray(vectors * np.where(largest < 0, -1, 1), dtype=np.float32)


def _orthonormal(basis: torch.Tensor) -> torch.Tensor:
    with one_thread():
        return torch.linalg.qr(basis)[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one CPU thread: LAPACK sums in another order with every number of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
