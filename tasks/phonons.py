"""Labels from phonon densities of states, as a Prefect task."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloud_core.evaluation.thermal import phonon_labels
from cloud_core.evaluation.thermal.data import ThermalData


@task(cache_policy=NO_CACHE, persist_result=False)
def label_phonons(
    data: phonon_labels.PhononData, known: ThermalData, labels: phonon_labels.PhononLabels, path: str
) -> phonon_labels.PhononCounts:
    return phonon_labels.label_phonons(data, known, labels, path)
