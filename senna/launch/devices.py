"""The GPUs that the processes of a run see."""

from collections.abc import Mapping

from senna.launch.processes import count_gpus, uses_several_processes


def visible_devices(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """Return the change of CUDA_VISIBLE_DEVICES that leaves a single process one GPU, the first that it would see.

    Libraries spread a single process over every GPU that they find. The change is empty if there is nothing to hide.
    """
    if processes != 1 or uses_several_processes(environment, processes) or count_gpus(environment) < 2:
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES") or "0"
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0].strip()}
