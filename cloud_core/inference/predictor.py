"""From structures or SCOPE strings to properties, with any trained model folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_core.inference.thermodynamics import CURVE_TEMPERATURES, UNITS, thermodynamics
from cloud_core.models.checkpoint import CheckpointError, read_config
from cloud_core.models.debye_model import DebyeModel
from cloud_core.models.ensemble import Ensemble
from cloud_core.models.heads import PropertyModel
from cloud_core.models.pooling import Geometry
from cloud_core.scope import EncoderSettings, ScopeError, canonicalise, decode, resolve
from cloud_core.scope.grammar import join
from cloud_core.scope.inputs import Refused, encode_inputs
from cloud_core.structures.cell import Cell
from cloud_core.training.batches import Batches
from cloud_core.training.loop import Precision, outputs

Model = PropertyModel | Ensemble | DebyeModel


class Predictor:
    """A trained model that takes structures.

    >>> Predictor.load("runs/models/formation_energy").predict(Path("NaCl.cif"))
    """

    def __init__(self, model: Model, metadata: dict[str, Any], device: str | None = None) -> None:
        self.model = model.eval()
        self.metadata = metadata
        self.form: str = metadata.get("form", "canonical")
        """form of SCOPE that the model was trained on"""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision: Precision = "float32"
        self.temperatures: Sequence[float] = CURVE_TEMPERATURES
        """K, of the curves that a Debye model gives"""
        members: Iterable[Any] = model.members if isinstance(model, Ensemble) else [model]
        self.geometry: Geometry = min(
            (member.config for member in members), key=lambda config: getattr(config, "positions", 0)
        )
        """of the encoder; of several that read strings, the one that takes the shortest"""

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None) -> "Predictor":
        """The model of a folder of kind `property`, `ensemble` or `debye`.

        Raises:
            CheckpointError: no such folder, a damaged one, or one that predicts nothing (a bare encoder).
        """
        kind = read_config(folder)["kind"]
        loaders: dict[str, Any] = {"property": PropertyModel, "ensemble": Ensemble, "debye": DebyeModel}
        if kind not in loaders:
            raise CheckpointError(
                f"{folder}: a model of kind '{kind}' predicts no property; finetune it first"
            )
        model, metadata = loaders[kind].load(folder)
        return cls(model, metadata, device)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each predicted quantity."""
        if isinstance(self.model, DebyeModel):
            return dict(UNITS)
        return {target.name: target.unit for target in self.model.targets}

    def predict(self, structures: Any) -> list[dict[str, Any]]:
        """One mapping for each structure, in order.

        Args:
            structures: one or many of: a `Path` of a file; the content of one as text or bytes; a JSON
                object; a pymatgen Structure; ASE Atoms; a Cell; a SCOPE string of the form that the model was
                trained on. A text is never taken for a path. A file of several structures gives a row each.

        Returns:
            `scope`, then each target (a class: `<target>`, and `<target>_probability` of each class), its
            `<target>_std` from an ensemble, and `error`: None, or why there is no prediction.
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
            row |= {name: arrays[name][index].tolist() for name in names}
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
            examples = Batches.of_texts([hydrogen], self.geometry)
            return {name: values[:0] for name, values in self.predict_examples(examples).items()}
        return self.predict_examples(Batches.of_texts(texts, self.geometry))

    def predict_examples(self, examples: Batches) -> dict[str, NDArray[Any]]:
        """`predict_texts` for strings that are tokenized already."""
        found = outputs(self.model, examples, self.precision, self.device)
        if isinstance(self.model, DebyeModel):
            return thermodynamics(found, self.temperatures)
        arrays: dict[str, NDArray[Any]] = dict(self.model.physical(found))
        for target in self.model.targets:
            if target.kind == "classification":
                probabilities = arrays[target.name]
                arrays[target.name] = np.array(target.classes)[probabilities.argmax(axis=1)]
                for index, name in enumerate(target.classes):
                    arrays[f"{target.name}_probability_{name}"] = probabilities[:, index]
        return arrays


def is_scope_string(given: Any) -> bool:
    """Whether an input is meant as a SCOPE string: one line of three fields."""
    return isinstance(given, str) and given.count("|") == 2 and "\n" not in given.strip()


def _is_one(given: Any) -> bool:
    """Whether an input is one structure, or file of structures, and no collection of them. A pymatgen
    Structure and ASE's Atoms are collections too, of sites."""
    if isinstance(given, str | bytes | Path | Mapping | Cell) or not isinstance(given, Iterable):
        return True
    return hasattr(given, "frac_coords") or hasattr(given, "get_atomic_numbers")
