"""What the matbench package makes of a results file: `matbench_scores.py results.json labels.json`, as JSON.

Run with the folder of tests/oracles/requirements.txt on PYTHONPATH. The package validates the file on
loading; the labels (task -> row -> value) are what it records predictions against, to score them itself. The
result is the last line, after what the package logs.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from matbench.bench import MatbenchBenchmark
from matbench.task import MatbenchTask

loaded = MatbenchBenchmark.from_file(sys.argv[1])
labels = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
found = {}
for name, of_rows in labels.items():
    read = loaded.tasks_map[name]
    fresh = MatbenchTask(name, autoload=False)
    target = fresh.metadata.target
    fresh.df = pd.DataFrame({"structure": None, target: pd.Series(of_rows)})
    for fold in fresh.folds:
        given = read.results[f"fold_{fold}"].data
        fresh.record(fold, [given[row] for row in fresh.validation[f"fold_{fold}"].test])
    found[name] = {
        "read": {key: dict(value) for key, value in read.scores.items()},
        "scored": {key: dict(value) for key, value in fresh.scores.items()},
    }
print("\n" + json.dumps(found))
