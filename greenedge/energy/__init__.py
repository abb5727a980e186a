"""Joules per inference on CPU, GPU and FPGA by one method, in which an estimate can never pass for a measurement.

numpy is all that importing this needs. The main calls:

    measure(workloads, source_ids)     a checked document (see results)
    compare(one, other)                the ratio with its interval and verdict
    CallableWorkload(call, name)       what is measured
"""

from greenedge.energy.compare import compare
from greenedge.energy.measure import measure
from greenedge.energy.method import Method
from greenedge.energy.workloads import CallableWorkload, CommandWorkload, SerialWorkload, Workload

__all__ = ["CallableWorkload", "CommandWorkload", "Method", "SerialWorkload", "Workload", "compare", "measure"]
