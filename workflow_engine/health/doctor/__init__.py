"""The doctor: are the servers, the workers and the code here fit to run workflows, and if not, what to do.

Servers are asked at the same time and with short timeouts; a server that is away is a finding like any other.
What their replies mean is decided apart from the asking, by functions from facts to findings.

- `examination`: all questions; `finding`: the result of one
- `postgres`, `redis_server`, `redis_cluster`, `encryption`: the servers, and the connections to them
- `workers`, `worker_settings`, `worker_processes`, `worker_code`: the workers
- `code`, `secrets`: the modules and secrets that workflows need
"""

from workflow_engine.health.doctor.examination import examine
from workflow_engine.health.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
