"""Models over a sites encoder in numpy, for a few structures: no second is spent on the import of torch.

The arithmetic is that of `cloud_core.models` (sites_encoder, heads, debye_model), to which a test holds it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, expit

from cloud_core.models.geometry import ELEMENTS, FIELDS, LAST_OF_SYSTEM, LEAST_OCCUPANCY
from cloud_core.training.batches import Batches

Floats = NDArray[np.float32]
_TOKENS_AT_ONCE = 8192
_GROUP = FIELDS.index("space_group")


class SitesNetwork:
    """Encoder and head of one model: `weights` by name as in its safetensors, `encoder` as in config.json."""

    def __init__(self, weights: Mapping[str, NDArray[Any]], encoder: Mapping[str, Any], hidden: str) -> None:
        """hidden: the head's activation, "silu" of properties or "tanh" of Debye temperatures."""
        self.weights = {name: np.asarray(values, np.float32) for name, values in weights.items()}
        self.layers, self.heads = int(encoder["layers"]), int(encoder["heads"])
        self.epsilon = float(encoder["norm_epsilon"])
        self.hidden = hidden

    def __call__(self, rows: Batches) -> tuple[Floats, Floats, Floats]:
        """(outputs `[n, outputs]`, vectors `[n, V]`, fractions of the elements `[n, 119]`)."""
        order = np.argsort(rows.lengths, kind="stable")
        parts = np.cumsum(rows.lengths[order]) // _TOKENS_AT_ONCE
        chunks = np.split(order, np.flatnonzero(np.diff(parts)) + 1)
        done = [self._chunk(rows, chunk) for chunk in chunks]
        back = np.argsort(order, kind="stable")
        outputs, vectors, fractions = (np.concatenate(part)[back] for part in zip(*done, strict=True))
        return outputs, vectors, fractions

    def _chunk(self, rows: Batches, chosen: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
        grid, lengths = rows.padded(chosen)  # [B, L, fields]
        real = np.arange(grid.shape[1]) < lengths[:, None]
        atoms = grid[..., 3] * grid[..., 4] * np.maximum(grid[..., 5], LEAST_OCCUPANCY)
        shares = (atoms / np.maximum(atoms.sum(1, keepdims=True), LEAST_OCCUPANCY)).astype(np.float32)
        hidden = self._embed(grid, shares)
        for layer in range(self.layers):
            name = f"encoder.layers.{layer}."
            hidden = hidden + self._attend(name, self._norm(name + "attention_norm", hidden), real)
            wide = self._linear(name + "expand", self._norm(name + "feed_forward_norm", hidden))
            hidden = hidden + self._linear(name + "contract", 0.5 * wide * (1 + erf(wide / np.sqrt(2))))
        hidden = self._norm("encoder.norm", hidden)
        mean = (hidden * shares[..., None]).sum(1)
        vectors = np.concatenate([mean, hidden[:, 0]], axis=1)
        fractions = np.zeros((len(grid), ELEMENTS), np.float32)
        np.add.at(fractions, (np.arange(len(grid))[:, None], grid[..., 0]), shares)
        head = self._linear("hidden", vectors)
        outputs = self._linear("output", np.tanh(head) if self.hidden == "tanh" else head * expit(head))
        return outputs + fractions @ self.weights["elements.weight"].T, vectors, fractions

    def _embed(self, grid: NDArray[np.int64], shares: Floats) -> Floats:
        """`[B, L, fields]` -> `[B, L, H]`; what padding gets is never looked at."""

        def table(name: str) -> Floats:
            return self.weights[f"encoder.embeddings.{name}"]

        element, position, symmetry, multiplicity, count, occupancy = (grid[..., i] for i in range(6))
        counts = np.stack([np.log1p(multiplicity), np.log1p(count), occupancy / 100, shares], axis=-1)
        hidden = (
            table("elements.weight")[element]
            + self._linear("encoder.embeddings.from_properties", table("properties")[element])
            + table("wyckoff.weight")[position]
            + table("site_symmetries.weight")[symmetry]
            + self._linear("encoder.embeddings.from_counts", counts.astype(np.float32))
        )
        group = grid[:, 0, _GROUP]
        system = np.searchsorted(LAST_OF_SYSTEM, group) + 1
        totals = np.stack(
            [(multiplicity * count * occupancy).sum(1) / 100, count.sum(1), (element > 0).sum(1)], axis=-1
        )
        hidden[:, 0] = (
            table("space_groups.weight")[group]
            + table("crystal_systems.weight")[system]
            + self._linear("encoder.embeddings.from_totals", np.log1p(totals).astype(np.float32))
        )
        return hidden

    def _attend(self, name: str, hidden: Floats, real: NDArray[np.bool_]) -> Floats:
        batch, length, size = hidden.shape
        projected = self._linear(name + "attention.query_key_value", hidden)
        split = projected.reshape(batch, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        query, key, value = split  # [B, heads, L, d]
        scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1]))
        scores = np.where(real[:, None, None, :], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        return self._linear(
            name + "attention.output", mixed.transpose(0, 2, 1, 3).reshape(batch, length, size)
        )

    def _norm(self, name: str, hidden: Floats) -> Floats:
        centred = hidden - hidden.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        return np.asarray(scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"])

    def _linear(self, name: str, values: Floats) -> Floats:
        return np.asarray(values @ self.weights[name + ".weight"].T + self.weights[name + ".bias"])
