"""Plans which devices run which blocks and own which samples, by predicted time. Pure."""

from .cost.evaluate import evaluate
from .problem.problem import Problem, Tokens
from .search.partial_caches import make_plan

__all__ = ["Problem", "Tokens", "evaluate", "make_plan"]
