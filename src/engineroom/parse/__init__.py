"""From token ids to text: detokenisation, stop strings, the thinking block. Incremental, and the same for all engines."""

from engineroom.parse.answer import AnswerParser
from engineroom.parse.detokenizer import Detokenizer
from engineroom.parse.reasoning import ReasoningSplitter
from engineroom.parse.stops import StopStrings

__all__ = ["AnswerParser", "Detokenizer", "ReasoningSplitter", "StopStrings"]
