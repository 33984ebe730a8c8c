#!/usr/bin/env bash
# Register everything on the Prefect server of $PREFECT_API_URL. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

prefect work-pool create cloud --type process --overwrite
prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
python -m deployments.automations
