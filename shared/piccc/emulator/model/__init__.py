"""The emulator's deterministic model and its token counts."""

from piccc.emulator.model.respond import RuleModel
from piccc.emulator.model.schema import Unfillable
from piccc.emulator.model.tokens import pieces

__all__ = ["RuleModel", "Unfillable", "pieces"]
