"""Which requests run, where their keys and values lie, and which of their tokens go through the model next."""

from __future__ import annotations

from collections import deque

from engineroom.engines.huggingface import sequence as limits
from engineroom.engines.huggingface.extents import Extent
from engineroom.engines.huggingface.prefix import BLOCK, Past, PrefixCache, as_array, common_length
from engineroom.engines.huggingface.sequence import Sequence

HEADROOM = 256
"""Tokens of an answer for which room is made at once. Few answers come to their limit; those that need more get more."""

_SLACK = 0.25
"""Of a step's prompt tokens. So little more is read with the rest: a step of its own would make all wait for another one."""


class Scheduler:
    """First come, first served. Requests run as long as their keys and values fit; the others wait.

    Where a running request needs more room and there is none, the one that came last gives up its own and waits again;
    its tokens are kept, and computed once more later.

    Args:
        chunk: prompt tokens of one step, of all requests together.
    """

    def __init__(self, prefixes: PrefixCache, chunk: int) -> None:
        self.cache = prefixes.cache
        self.prefixes = prefixes
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # by arrival
        self._chunk = chunk

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    @property
    def requests(self) -> list[Sequence]:
        return [*self.running, *self.waiting]

    def add(self, sequence: Sequence) -> None:
        assert sequence.limit <= self.cache.size
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Frees what the request holds; what was computed for it stays for others while there is room."""
        sequence.release()
        if sequence.extent is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        extent, sequence.extent = sequence.extent, None
        if sequence.sound and sequence.computed >= BLOCK:
            tokens = as_array(sequence.tokens[: sequence.computed])
            self.prefixes.keep(Past(tokens, sequence.weights, extent))
        else:
            self.cache.release(extent, wipe=not sequence.sound)

    def plan(self) -> list[tuple[Sequence, int]]:
        """The requests of the next step, and how many tokens of each go through the model."""
        self._admit()
        for sequence in tuple(self.running):
            if sequence.extent is not None:
                self._make_room(sequence)
        decoding = [(s, 1) for s in self.running if s.pending == 1 and s.computed]
        prefilling = [s for s in self.running if s.pending > 1 or not s.computed]
        return decoding + self._chunks(prefilling)

    def _chunks(self, prefilling: list[Sequence]) -> list[tuple[Sequence, int]]:
        """The longest waiting gets half of the step at least, so that it comes on; then the shortest prompts, for they
        are done soonest."""
        taken: list[tuple[Sequence, int]] = []
        if not prefilling:
            return taken
        asked = sum(s.pending for s in prefilling)
        left = asked if asked <= self._chunk * (1 + _SLACK) else self._chunk
        first, *others = prefilling
        others.sort(key=lambda s: s.pending)
        shares = ((first, left if not others else left // 2), *((s, left) for s in others))
        for sequence, share in shares:
            if left <= 0:
                break
            self._copy_from_live(sequence)
            count = min(sequence.pending, share, left)
            if sequence.wants_prompt_logits:
                count = min(count, limits.PROMPT_LOGPROBS_CHUNK)
            taken.append((sequence, max(count, 1)))
            left -= count
        spare = min(left, first.pending - taken[0][1])
        if spare > 0 and not first.wants_prompt_logits:
            taken[0] = (first, taken[0][1] + spare)
        return taken

    # --- memory ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            extent = self._first_extent(sequence)
            if extent is None:
                return
            sequence.extent = extent
            self.waiting.popleft()
            self.running.append(sequence)

    def _first_extent(self, sequence: Sequence) -> Extent | None:
        """Room for a request, with what is known of its beginning; None if there is none."""
        room = self._wanted(sequence)
        past, common = None, 0
        if not sequence.wants_prompt_logits:
            past, common = self.prefixes.find(as_array(sequence.tokens), sequence.weights)
        reused = min(common, len(sequence.tokens) - 1)
        if past is None or reused < BLOCK:
            return self._find_room(room)
        if common == len(
            past.tokens
        ):  # all of it is this request's beginning: the request goes on where it lies
            extent = self._enlarged(self.prefixes.take(past), room, reused)
            if extent is None:
                self.prefixes.keep(past)
                return None
        else:
            extent = self._find_room(room, but=past)
            if extent is None:
                return self._find_room(room)
            self.cache.copy(past.extent, extent, reused)
        sequence.computed = reused
        return extent

    def _copy_from_live(self, sequence: Sequence) -> None:
        """Before a prompt's first token is read: takes over what a running request has computed of the same beginning."""
        if sequence.reading or sequence.wants_prompt_logits:
            return
        donor, longest = None, sequence.computed
        for other in self.running:
            if other is sequence or other.weights != sequence.weights or other.extent is None:
                continue
            shared = common_length(other.prompt_array, sequence.prompt_array)
            common = min(shared, other.computed, len(sequence.tokens) - 1)
            if common > longest:
                donor, longest = other, common
        if donor is not None and longest >= BLOCK:
            assert donor.extent is not None
            assert sequence.extent is not None
            self.cache.copy(donor.extent, sequence.extent, longest)
            sequence.computed = longest

    def _make_room(self, sequence: Sequence) -> None:
        """For the next token. The last that came gives way, which may be this one."""
        while sequence.extent is not None and sequence.extent.capacity < len(sequence.tokens):
            extent = self._enlarged(sequence.extent, self._wanted(sequence), sequence.computed)
            if extent is None:
                extent = self._enlarged(sequence.extent, len(sequence.tokens), sequence.computed)
            if extent is not None:
                sequence.extent = extent
                return
            self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        assert sequence.extent is not None
        self.running.remove(sequence)
        self.cache.release(sequence.extent, wipe=not sequence.sound)
        sequence.extent = None
        sequence.forget()
        self.waiting.appendleft(sequence)

    def _wanted(self, sequence: Sequence) -> int:
        return min(sequence.limit, len(sequence.tokens) + HEADROOM)

    def _enlarged(self, extent: Extent, room: int, filled: int) -> Extent | None:
        """The range with so much room: the same one, or another with its ``filled`` tokens. None if there is none."""
        if extent.capacity >= room or self.cache.extents.resize(extent, room):
            return extent
        larger = self._find_room(room)
        if larger is None:
            return None
        self.cache.copy(extent, larger, filled)
        self.cache.release(extent, wipe=False)
        return larger

    def _find_room(self, tokens: int, *, but: Past | None = None) -> Extent | None:
        """A new range, for which pasts have to go if need be, ``but`` one."""
        while (extent := self.cache.allocate(tokens)) is None:
            if not self.prefixes.evict(but=but):
                return None
        return extent
