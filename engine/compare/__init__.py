"""Two readings beside each other and numerically: of two prompts by one model, of one by two."""

from engine.compare.two_models import ModelComparison, compare_models
from engine.compare.two_prompts import PromptComparison, compare_prompts

__all__ = ["ModelComparison", "PromptComparison", "compare_models", "compare_prompts"]
