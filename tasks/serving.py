"""The model that MLflow serves: models-from-code, so that no class is pickled.

MLflow copies this file and `cloud_core` into the logged model and runs it on loading.
"""

from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc import PythonModel


class CloudModel(PythonModel):
    """One column `structure` in: the text of a structure file or a SCOPE string, never the name of a file.

    Out: a row for each structure, in order: `input` (row of the request, from 0), `name` ("" for the only
    structure of a text), `scope`, properties, `error`.
    """

    def load_context(self, context: Any) -> None:
        from cloud_core.inference.predictor import Predictor

        self.predictor = Predictor.load(context.artifacts["model"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        inputs = [text if isinstance(text, str | bytes) else "" for text in model_input["structure"]]
        rows = self.predictor.predict_named(inputs)
        return pd.DataFrame([{"input": place, "name": name, **row} for place, name, row in rows])


mlflow.models.set_model(CloudModel())
