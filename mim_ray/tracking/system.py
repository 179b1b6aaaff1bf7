"""How busy a machine is, under MLflow's own names, so that its page of system metrics shows them."""

from contextlib import suppress
from pathlib import Path

MEGA = 1e6


class System:
    """Of the machine that asks; rates are since the last time."""

    def __init__(self, disk: Path) -> None:
        import psutil  # here, for only a run needs it

        self._psutil, self._disk = psutil, disk
        psutil.cpu_percent()
        self._network = psutil.net_io_counters()

    def read(self) -> dict[str, float]:
        memory, disk = self._psutil.virtual_memory(), self._psutil.disk_usage(str(self._disk))
        found = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGA,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MEGA,
        }
        network = self._psutil.net_io_counters()
        if network is not None and self._network is not None:  # a container may show no network
            found["network_receive_megabytes"] = (network.bytes_recv - self._network.bytes_recv) / MEGA
            found["network_transmit_megabytes"] = (network.bytes_sent - self._network.bytes_sent) / MEGA
        self._network = network
        return {f"system/{name}": float(value) for name, value in (found | _gpus()).items()}


def _gpus() -> dict[str, float]:
    """Of those this process may use."""
    import torch

    found: dict[str, float] = {}
    if not torch.cuda.is_available():
        return found
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"gpu_{number}_memory_usage_megabytes"] = (total - free) / MEGA
        found[f"gpu_{number}_memory_usage_percentage"] = 100 * (total - free) / total
        with suppress(Exception):  # NVIDIA's management library need not be there
            found[f"gpu_{number}_utilization_percentage"] = torch.cuda.utilization(number)
            found[f"gpu_{number}_power_usage_watts"] = torch.cuda.power_draw(number) / 1000
    return found
