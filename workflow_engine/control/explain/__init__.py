"""Why executions do not move: one code, one sentence, the evidence, and the command that helps.

- `explanation`: the codes, and the explanation of one execution or of many
- `facts`: what the servers show about an execution
- `reasons`: from facts to a reason, for each node that is open; pure. Those of nodes that should run are in
  `due_nodes`, those of waits in `waiting_nodes`, those of limits in `limited`; `reason` is one of them
- `joins`: a merge that waits for several open nodes
- `commands`: the commands that help, as they are typed
- `servers`: what the servers show, each asked once within a bounded time
- `conclusion`: the reason that counts for an execution; `groups` sorts many by their codes
- `explainer`: asks the servers, and explains one execution or many
"""

from workflow_engine.control.explain.explainer import Explainer
from workflow_engine.control.explain.explanation import Code, Explanation, Group, Overview

__all__ = ["Code", "Explainer", "Explanation", "Group", "Overview"]
