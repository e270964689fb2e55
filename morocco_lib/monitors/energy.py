"""Energy that the GPUs of this machine used over a stretch of time, by their own counters."""

from typing import Any

from morocco_lib.monitors import nvml
from morocco_lib.reasons import Reason


class EnergyMeter:
    """Reads the counters of every GPU that NVML shows, when made and at `read`.

    Limits: whatever else ran on those GPUs is in it; the counters move in steps, so some seconds at least are needed.
    """

    def __init__(self) -> None:
        self._began = _counters()

    def read(self) -> dict[str, Any]:
        """Return {"value": joules} since it was made, or {"value": None, "reason": code}."""
        ended = _counters()
        for counters in (self._began, ended):
            if not isinstance(counters, list):
                return {"value": None, "reason": str(counters)}
        return {"value": sum(ended) - sum(self._began)}


def _counters() -> list[float] | str:
    """Return the joules each GPU has counted so far, or the code of why not."""
    try:
        library = nvml.load()
        if library is None:
            return Reason.NO_GPU
        library.nvmlInit()
    except Exception as error:  # whatever a driver may say
        return nvml.reason_of(error)
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(k) for k in range(library.nvmlDeviceGetCount())]
        return [library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000 for handle in handles]
    except Exception as error:
        return nvml.reason_of(error)
    finally:
        library.nvmlShutdown()
