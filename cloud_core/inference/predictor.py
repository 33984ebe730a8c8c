"""From structures or SCOPE strings to properties, with any trained model folder."""

from collections.abc import Iterable, Sequence
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
from cloud_core.scope import ScopeError, decode, encode
from cloud_core.structures.errors import StructureError
from cloud_core.training.examples import Examples
from cloud_core.training.finetune import Precision, outputs

Model = PropertyModel | Ensemble | DebyeModel


class Predictor:
    """A trained model that takes structures.

    >>> Predictor.load("runs/models/formation_energy").predict(["NaCl.cif"])
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
        self.positions = min(member.config.positions for member in members)

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

    def predict(self, structures: Sequence[Any]) -> list[dict[str, Any]]:
        """One mapping for each structure, in order.

        Args:
            structures: paths, CIF or POSCAR text, pymatgen structures or their JSON, or SCOPE strings of the
                form that the model was trained on.

        Returns:
            `scope`, then each target (a class: `<target>`, and `<target>_probability` of each class), its
            `<target>_std` from an ensemble, and `error`: None, or why there is no prediction.
        """
        rows: list[dict[str, Any]] = []
        for structure in structures:
            try:
                rows.append({"scope": self.scope(structure), "error": None})
            except (ScopeError, StructureError) as error:
                rows.append({"scope": None, "error": str(error)})
        good = [row for row in rows if row["error"] is None]
        arrays = self.predict_texts([row["scope"] for row in good])
        names = list(arrays)
        for row in rows:
            row |= dict.fromkeys(names)
        for index, row in enumerate(good):
            row |= {name: arrays[name][index].tolist() for name in names}
        return [{key: row[key] for key in ("scope", *names, "error")} for row in rows]

    def scope(self, structure: Any) -> str:
        """The SCOPE string of one structure, in the model's form.

        Raises:
            ScopeError, StructureError: it is refused, with the reason.
        """
        if isinstance(structure, str) and structure.count("|") == 2 and "\n" not in structure.strip():
            decode(structure.strip())
            return structure.strip()
        text = getattr(encode(structure, forms=(self.form,)), self.form)
        return str(text)

    def predict_texts(self, texts: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Arrays `[n]` by quantity for SCOPE strings of the model's form, unchecked: the fast path."""
        if not texts:
            examples = Examples.from_texts(["0 | 1a | H 1.0"], positions=self.positions)
            return {name: values[:0] for name, values in self.predict_examples(examples).items()}
        return self.predict_examples(Examples.from_texts(texts, positions=self.positions))

    def predict_examples(self, examples: Examples) -> dict[str, NDArray[Any]]:
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
