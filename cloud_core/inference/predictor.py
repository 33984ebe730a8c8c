"""From structures or SCOPE strings to properties, with any trained model folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_core.inference.domain import Domain
from cloud_core.inference.engines import Engine, NumpyEngine, TorchEngine, described
from cloud_core.inference.units import CURVE_TEMPERATURES, UNITS
from cloud_core.models.folder import CheckpointError, model_folder, read_config
from cloud_core.models.targets import Target, combined, target_from
from cloud_core.scope import EncoderSettings, ScopeError, canonicalise, decode, resolve
from cloud_core.scope.grammar import join
from cloud_core.scope.inputs import encode_inputs
from cloud_core.scope.isolation import Refused
from cloud_core.structures.cell import Cell
from cloud_core.training.batches import Batches

OUTSIDE = "out_of_distribution"


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
        """The model of a folder of kind `property`, `ensemble` or `debye`, or of those that come with the
        package by its name.

        Models over sites are evaluated by numpy, which is as fast on a CPU and starts at once, unless a
        `device` is named.

        Raises:
            CheckpointError: no such folder, a damaged one, or one that predicts nothing (a bare encoder).
        """
        folder = model_folder(address)
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
            structures: one or many of: a `Path` of a file; the content of one as text or bytes; a JSON
                object; a pymatgen Structure; ASE Atoms; a Cell; a SCOPE string of the form that the model was
                trained on. A text is never taken for a path. A file of several structures gives a row each.

        Returns:
            `scope`, then each target (a class: `<target>`, and `<target>_probability` of each class), its
            `<target>_std` from an ensemble, `out_of_distribution` where the model knows its domain (None, or
            why), and `error`: None, or why there is no prediction.
        """
        return [row for _, _, row in self.predict_named(structures)]

    def predict_named(self, structures: Any) -> list[tuple[int, str, dict[str, Any]]]:
        """`predict`, each row with the place of its input among those given and its name there, as of
        `encode_all`: "" for a single structure."""
        inputs = [structures] if _is_one(structures) else list(structures)
        rows: list[tuple[int, str, dict[str, Any]]] = []
        for place, name, scope, error in self._scopes(inputs):
            rows.append((place, name, {"scope": scope, "error": error}))
        good = [row for _, _, row in rows if row["error"] is None]
        arrays = self.predict_texts([row["scope"] for row in good])
        names = list(arrays)
        for _, _, row in rows:
            row |= dict.fromkeys(names)
        for index, row in enumerate(good):
            row |= {name: _plain(arrays[name][index]) for name in names}
        keys = ("scope", *names, "error")
        return [(place, name, {key: row[key] for key in keys}) for place, name, row in rows]

    def _scopes(self, inputs: Sequence[Any]) -> Iterator[tuple[int, str, str | None, str | None]]:
        """(place, name, SCOPE string in the model's form, None or why there is none) of each structure."""
        places = [place for place, given in enumerate(inputs) if not is_scope_string(given)]
        encoded = encode_inputs([inputs[place] for place in places], EncoderSettings(forms=(self.form,)))
        outcome = next(encoded, None)
        for place, given in enumerate(inputs):
            if is_scope_string(given):
                try:
                    yield place, "", self._checked(given.strip()), None
                except ScopeError as error:
                    yield place, "", None, str(error)
            while outcome is not None and places[outcome[0]] == place:
                _, name, found = outcome
                if isinstance(found, Refused):
                    yield place, name, None, found.message
                else:
                    yield place, name, getattr(found.scope, self.form), None
                outcome = next(encoded, None)

    def _checked(self, text: str) -> str:
        """A string of the model's form. Raises ScopeError for others."""
        rules = {"canonical": canonicalise, "resolved": resolve}
        rule = rules.get(self.form)
        if rule is None:
            if decode(text).occupants:
                raise ScopeError(text, 0, f"a resolved string, and the model reads {self.form} ones")
        elif rule(text) != text:
            raise ScopeError(
                text, 0, f"the model reads {self.form} strings, and this is none: pass {rule.__name__}(text)"
            )
        return text

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
    predictors: Mapping[str, Predictor], structures: Any
) -> list[tuple[int, str, dict[str, Any]]]:
    """`predict_named` of several models of one form by name, each structure encoded once.

    Where one knows its domain, `out_of_distribution` says of which models a crystal is outside, and why.

    Raises:
        CheckpointError: the models read different forms.
    """
    first, *others = predictors.items()
    if len({predictor.form for predictor in predictors.values()}) > 1:
        raise CheckpointError(
            "models that predict together read one form of the strings; ask them one by one"
        )
    rows = first[1].predict_named(structures)
    good = [row for _, _, row in rows if row["error"] is None]
    for name, predictor in others:
        arrays = predictor.predict_texts([row["scope"] for row in good])
        reasons = arrays.pop(OUTSIDE, np.full(len(good), None, dtype=object))
        for _, _, row in rows:
            error = row.pop("error")
            row |= dict.fromkeys(arrays) | {"error": error}
        for index, row in enumerate(good):
            row |= {quantity: _plain(values[index]) for quantity, values in arrays.items()}
            if reasons[index] is not None:
                before = f"{row[OUTSIDE]}; " if row.get(OUTSIDE) else ""
                row[OUTSIDE] = f"{before}{name}: {reasons[index]}"
    return rows


def is_scope_string(given: Any) -> bool:
    """Whether an input is meant as a SCOPE string: one line of three fields."""
    return isinstance(given, str) and given.count("|") == 2 and "\n" not in given.strip()


def _is_one(given: Any) -> bool:
    """Whether an input is one structure, or file of structures, and no collection of them. A pymatgen
    Structure and ASE's Atoms are collections too, of sites."""
    if isinstance(given, str | bytes | Path | Mapping | Cell) or not isinstance(given, Iterable):
        return True
    return hasattr(given, "frac_coords") or hasattr(given, "get_atomic_numbers")


def _plain(value: Any) -> Any:
    """A value of an array as Python has it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
