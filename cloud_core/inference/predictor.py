"""From structures or SCOPE strings to properties, with any trained model folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.inference.addresses import local_folder
from cloud_core.inference.domain import Domain
from cloud_core.inference.engines import Engine, NumpyEngine, TorchEngine, described
from cloud_core.inference.inputs import is_one, strings_of
from cloud_core.inference.units import CURVE_TEMPERATURES, UNITS
from cloud_core.models.folder import CheckpointError, read_config
from cloud_core.models.targets import Target, combined, target_from
from cloud_core.scope.formulas import formula_of
from cloud_core.scope.grammar import decode, join
from cloud_core.training.batches import Batches

if TYPE_CHECKING:
    import pandas as pd

OUTSIDE = "out_of_distribution"
ROWS_AT_ONCE = 1000


class Predictor:
    """A trained model that takes structures.

    >>> Predictor.load("formation_energy").predict(Path("NaCl.cif"))
    """

    def __init__(self, engine: Engine, config: Mapping[str, Any], domain: Domain | None = None) -> None:
        self.engine = engine
        self.metadata: dict[str, Any] = dict(config["metadata"])
        self.form: str = self.metadata.get("form", "canonical")
        """form of SCOPE that the model was trained on"""
        self.is_debye = config["kind"] == "debye"
        first = described(dict(config))[0]
        self.targets: tuple[Target, ...] = tuple(map(target_from, first.get("targets", ())))
        self.scales: Sequence[Sequence[float]] | None = (
            config.get("scales") or [(factor, 0.0) for factor in config["widening"]]
            if config["kind"] == "ensemble"
            else None
        )
        self.domain = domain
        self.temperatures: Sequence[float] = CURVE_TEMPERATURES
        """K, of the curves that a Debye model gives"""

    @classmethod
    def load(cls, address: str | Path, device: str | None = None) -> "Predictor":
        """The model at an address, as of `local_folder`, of kind `property`, `ensemble` or `debye`.

        Models over sites are evaluated by numpy, which is as fast on a CPU and starts at once, unless a
        `device` is named.

        Raises:
            CheckpointError: no such folder, a damaged one, or one that predicts nothing (a bare encoder).
        """
        folder = local_folder(address)
        config = read_config(folder)
        if config["kind"] not in ("property", "ensemble", "debye"):
            raise CheckpointError(
                f"{folder}: a model of kind '{config['kind']}' predicts no property; finetune it first"
            )
        of_sites = all(member["encoder"].get("kind") == "sites" for member in described(config))
        if of_sites and device is None and config.get("version", 1) > 2:
            engine: Engine = NumpyEngine(folder, config)
        else:
            engine = TorchEngine.load(folder, config["kind"], device)
        return cls(engine, config, Domain.load(folder))

    @property
    def units(self) -> dict[str, str]:
        """Unit of each predicted quantity."""
        return dict(UNITS) if self.is_debye else {target.name: target.unit for target in self.targets}

    def predict(self, structures: Any) -> list[dict[str, Any]]:
        """One mapping for each structure, in order.

        Args:
            structures: one or many of: a `Path` of a file, folder, archive or table; the content of a file as
                text or bytes; a JSON object; a pymatgen Structure; ASE Atoms; a Cell; a SCOPE string of the
                form that the model was trained on. A text is never taken for a path. A file of several
                structures gives a row each.

        Returns:
            `formula`, `space_group`, `scope`, then each target (a class: `<target>`, and
            `<target>_probability` of each class), its `<target>_std` from an ensemble, `out_of_distribution`
            where the model knows its domain (None, or why), and `error`: None, or why there is no prediction.
        """
        return [row for _, _, row in self.predict_named(structures)]

    def frame(self, structures: Any) -> "pd.DataFrame":
        """`predict` as a table with a column `id`: the input's name or place, and the structure's name in it.

        `attrs["units"]` has the unit of each quantity. A column of a DataFrame is given as it is; its index
        gives the ids.
        """
        import pandas as pd

        names: Sequence[Any] = []
        if isinstance(structures, pd.Series):
            names, structures = structures.index.astype(str).tolist(), structures.tolist()
        inputs = [structures] if is_one(structures) else list(structures)
        rows = []
        for place, name, row in predict_together({"": self}, inputs):
            given = inputs[place]
            own = str(names[place]) if len(names) else str(given) if isinstance(given, Path) else str(place)
            rows.append({"id": own + (f"/{name}" if name and name[0] != "#" else name)} | row)
        found = pd.DataFrame(rows)
        found.attrs["units"] = self.units
        return found

    def predict_named(self, structures: Any) -> list[tuple[int, str, dict[str, Any]]]:
        """`predict`, each row with the place of its input among those given and its name there, as of
        `encode_all`: "" for a single structure."""
        return list(predict_together({"": self}, [structures] if is_one(structures) else structures))

    def predict_texts(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Arrays `[n]` by quantity for SCOPE strings of the model's form, unchecked: the fast path."""
        if not texts:
            hydrogen = join(1, "1a H" if self.form == "resolved" else "1a", "H 1.0")
            return {name: values[:0] for name, values in self.predict_texts([hydrogen]).items()}
        found = self.engine(Batches.of_texts(texts, self.engine.geometry))
        if self.is_debye:
            from cloud_core.inference.thermodynamics import thermodynamics

            arrays: dict[str, NDArray[Any]] = dict(
                thermodynamics(found.members[0]["debye_temperature"], self.temperatures)
            )
        else:
            arrays = {}
        distance = None
        if self.domain is not None and found.vectors is not None and found.fractions is not None:
            distances = self.domain.distances(found.vectors)
            distance = self.domain.relative(distances)
            arrays[OUTSIDE] = np.array(self.domain.reasons(distances, found.fractions), dtype=object)
        if not self.is_debye:
            if self.scales is None:
                arrays = dict(found.members[0]) | arrays
            else:
                arrays = combined(self.targets, self.scales, found.members, distance) | arrays
        for target in self.targets:
            if target.kind == "classification":
                probabilities = arrays[target.name]
                arrays[target.name] = np.array(target.classes)[probabilities.argmax(axis=1)]
                for index, name in enumerate(target.classes):
                    arrays[f"{target.name}_probability_{name}"] = probabilities[:, index]
        return arrays


def predict_together(
    predictors: Mapping[str, Predictor], structures: Iterable[Any]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """`predict_named` of several models of one form by name, each structure encoded once, as they come.

    Where one knows its domain, `out_of_distribution` says of which models a crystal is outside, and why.

    Raises:
        CheckpointError: the models read different forms.
    """
    if len({predictor.form for predictor in predictors.values()}) > 1:
        raise CheckpointError(
            "models that predict together read one form of the strings; ask them one by one"
        )
    form = next(iter(predictors.values())).form
    asked = strings_of(structures, form)
    while chunk := list(islice(asked, ROWS_AT_ONCE)):
        arrays = _together(predictors, [each.scope for each in chunk if each.scope is not None])
        number = 0
        for each in chunk:
            row: dict[str, Any] = {"formula": None, "space_group": None, "scope": each.scope}
            row |= dict.fromkeys(arrays)
            if each.scope is not None:
                parts = decode(each.scope)
                row |= {"formula": formula_of(parts), "space_group": parts.space_group}
                row |= {name: _plain(values[number]) for name, values in arrays.items()}
                number += 1
            yield each.place, each.name, row | {"error": each.error}


def _together(predictors: Mapping[str, Predictor], texts: list[str]) -> dict[str, NDArray[Any]]:
    """Arrays `[n]` of all models by quantity; the remarks on their domains in one."""
    arrays: dict[str, NDArray[Any]] = {}
    remarks: list[list[str]] = [[] for _ in texts]
    knows = False
    for name, predictor in predictors.items():
        found = predictor.predict_texts(texts)
        outside = found.pop(OUTSIDE, None)
        knows |= outside is not None
        for remark, reason in zip(remarks, outside if outside is not None else (), strict=False):
            if reason is not None:
                remark.append(f"{name}: {reason}" if len(predictors) > 1 else reason)
        arrays |= found
    if knows:
        arrays[OUTSIDE] = np.array(["; ".join(remark) or None for remark in remarks], dtype=object)
    return arrays


def _plain(value: Any) -> Any:
    """A value of an array as Python has it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
