"""Two readings beside each other and numerically: of two prompts by one model."""

from engine.compare.two_prompts import PromptComparison, compare_prompts

__all__ = ["PromptComparison", "compare_prompts"]
