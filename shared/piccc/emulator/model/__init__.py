"""The emulator's deterministic model: what it says, and how its tokens are counted."""

from piccc.emulator.model.rules import RuleModel
from piccc.emulator.model.tokens import pieces

__all__ = ["RuleModel", "pieces"]
