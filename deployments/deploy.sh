#!/usr/bin/env bash
# Register everything on the Prefect server of $PREFECT_API_URL. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PREFECT_API_URL:?names the Prefect server, e.g. http://127.0.0.1:4200/api}"

# a server that was started a moment ago needs some seconds
for _ in $(seq 60); do
  python -m deployments.healthy "$PREFECT_API_URL/health" 2> /dev/null && break
  sleep 1
done

prefect work-pool create cloud --type process --overwrite
prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
python -m deployments.automations
