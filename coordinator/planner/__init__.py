"""Plans which devices run which blocks and own which samples, by predicted time. Pure."""

from .costs import evaluate
from .planner import make_plan
from .problem import Problem, Tokens

__all__ = ["Problem", "Tokens", "evaluate", "make_plan"]
