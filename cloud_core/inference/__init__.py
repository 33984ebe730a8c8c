"""From a structure to its properties."""

from cloud_core.inference.predictor import Predictor

__all__ = ["Predictor"]
