"""The doctor: are the servers, the workers and the code here fit to run workflows, and if not, what to do.

Servers are asked at the same time and with little patience; that one is away is an answer like any other.
What their answers mean is decided apart from the asking, by functions from facts to findings.
"""

from workflow_engine.doctor.examination import examine
from workflow_engine.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
