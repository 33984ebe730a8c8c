"""The model that MLflow serves: models-from-code, so that no class is pickled.

MLflow copies this file and `cloud_core` into the logged model and runs it on loading.
"""

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc import PythonModel


class CloudModel(PythonModel):
    """One column `structure` (CIF or POSCAR text, pymatgen JSON, a SCOPE string) in, properties out."""

    def load_context(self, context: Any) -> None:
        from cloud_core.inference.predictor import Predictor

        self.predictor = Predictor.load(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        return pd.DataFrame(self.predictor.predict(model_input["structure"].tolist()))


mlflow.models.set_model(CloudModel())
