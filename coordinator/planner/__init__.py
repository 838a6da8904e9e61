"""The planner: who runs which blocks and who owns which samples, chosen by predicted time. Pure."""

from .cost.evaluate import evaluate
from .problem.problem import Problem, Tokens
from .search.search import make_plan

__all__ = ["Problem", "Tokens", "evaluate", "make_plan"]
