"""Prints the lowest release that pyproject.toml allows of each dependency, as constraints for pip.

What only the tests and the tools need is left to pip.
"""

from __future__ import annotations

import sys
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
of_users = [extras[name] for name in extras if name not in ("test", "dev")]
for requirement in map(Requirement, chain(project["dependencies"], *of_users)):
    for bound in requirement.specifier:
        if bound.operator == ">=":
            sys.stdout.write(f"{requirement.name}=={bound.version}\n")
