"""Where numbers live: devices, aligned memory, seeds, spans, and the BLAS behind numpy."""

from hpcml.arrays.device import Array, Device, choose_device, namespace, on_device, to_host
from hpcml.arrays.memory import aligned
from hpcml.arrays.seeds import stream
from hpcml.arrays.spans import span, spans

__all__ = ["Array", "Device", "aligned", "choose_device", "namespace", "on_device", "span", "spans", "stream", "to_host"]
