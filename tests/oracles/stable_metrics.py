"""matbench-discovery's own metrics of the npz files named on the command line, as JSON.

Each file holds `each_true`, `each_pred`. Run with the folder of tests/oracles/requirements.txt on PYTHONPATH.
"""

import json
import sys

import numpy as np
import pandas as pd
from matbench_discovery.metrics import stable_metrics

results = {}
for path in sys.argv[1:]:
    with np.load(path) as arrays:
        metrics = stable_metrics(pd.Series(arrays["each_true"]), pd.Series(arrays["each_pred"]))
    results[path] = {key: float(value) for key, value in metrics.items()}
json.dump(results, sys.stdout)
