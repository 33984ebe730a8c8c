"""The automation for dead workers: `python -m deployments.automations` creates or renews it.

A worker that is killed leaves its flow run `Running` and its concurrency slot taken. Flow runs send
heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, set in prefect.yaml); where three of them fail to come, the
run is marked Crashed, which frees the slot. All flows may be run again: what is done is not done twice.
"""

import os
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME = "crash flow runs without heartbeats"
HEARTBEAT_S = int(os.environ.get("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30"))


def crash_zombies(within_s: float = 3 * HEARTBEAT_S + 10) -> Automation:
    """Create the automation, in place of an earlier one of its name."""
    with get_client(sync_client=True) as client:
        for existing in client.read_automations_by_name(NAME):
            client.delete_automation(existing.id)
    return Automation(
        name=NAME,
        description="Dead worker: the run is marked Crashed and its concurrency slot freed",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                "prefect.flow-run.heartbeat",
                "prefect.flow-run.Completed",
                "prefect.flow-run.Failed",
                "prefect.flow-run.Cancelled",
                "prefect.flow-run.Crashed",
            },
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="no heartbeat: its worker is gone; run it again, finished work is kept",
            )
        ],
    ).create()


if __name__ == "__main__":
    print(f"automation '{NAME}': {crash_zombies().id}")
