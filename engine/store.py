"""Capsules under names, in two tiers: memory, with a budget, and disk.

On a CPU the memory of the device is the host's, so there is no tier between the two. What lies on disk is asked for by
the same names: it is read back and checked, and only then does anybody see it.

Memory is never taken and then paid for: room is made first, by `eviction.plan`, or there is an error and all is as it
was. Files are read and written, and chains shortened, without the lock that a snapshot needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from weakref import WeakSet

from engine import chains, eviction
from engine.capsule import Capsule, Segment, merged
from engine.chains import Run, bytes_of, segments_of
from engine.entry import Entry, Evicted, Match, Row, StoreCounters, matching
from engine.errors import CapsuleLost, EngineError, PoolFull, StateError
from engine.eviction import Candidate
from engine.header import Expected
from engine.pool import Pool
from engine.shelf import REBUILD, Shelf, check_name

FLAT_DEPTH = 4
"""A chain of more segments is shortened in idle time."""

Result = TypeVar("Result")


class Store:
    """Named capsules of one engine. Its methods may be called from any thread.

    Attributes:
        counters: How often each thing happened.
    """

    def __init__(self, pool: Pool, expected: Expected, directory: Path | None = None) -> None:
        """Open a store, and find what lies in its directory.

        Args:
            pool: The memory of all capsules.
            expected: What a capsule has to be to fit the engine.
            directory: Where capsules are saved; None if they can't be.

        Raises:
            StateError: The directory can't be used.
        """
        self.counters = StoreCounters()
        self._pool = pool
        self._expected = expected
        self._shelf = None if directory is None else Shelf(directory, expected)
        texts = self._shelf.texts() if self._shelf else {}
        self._entries = {name: Entry(name, text, saved=True) for name, text in texts.items()}
        self._seen: WeakSet[Capsule] = WeakSet()
        """Every capsule that may hold memory of the pool, also one that only somebody else keeps."""
        self._busy: list[Capsule] = []
        """Those that are read without the lock."""
        self._uses = 0
        self._lock = threading.RLock()
        # Taken before the other one, never after it.
        self._file_lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """All names, those of capsules on disk as well."""
        with self._lock:
            return sorted(self._entries)

    @property
    def unreadable(self) -> dict[Path, EngineError]:
        """Files in the directory that are no capsules of this engine, and why. They are left alone."""
        return dict(self._shelf.unreadable) if self._shelf else {}

    def rows(self) -> list[Row]:
        """What there is, by name."""
        with self._lock:
            candidates = self._candidates()
            return [
                self._row(one, [other for other in candidates if other is not one])
                for one in sorted(candidates, key=lambda one: one.entry.name)
                if one.entry.name
            ]

    def put(
        self,
        name: str,
        capsule: Capsule,
        *,
        pinned: bool = False,
        disposable: bool = False,
        cost_tokens: int | None = None,
    ) -> None:
        """Keep a capsule. What had the name before is dropped, with its file.

        Args:
            name: Lower-case letters, digits, dots, dashes and underscores, at most 80.
            capsule: From the pool of this store.
            pinned: It is never evicted: the persona, the last commit.
            disposable: It is of a branch that lost, and is evicted before others.
            cost_tokens: What it costs to make again, in tokens read; None for those after its best ancestor.

        Raises:
            StateError: The name can't be one of a file, or the capsule is evicted or another engine's. What had the
                name is still there.
        """
        check_name(name)
        different = self._expected.fingerprint.difference(capsule.fingerprint)
        if capsule.evicted or different:
            why = "; ".join(different[:3]) or "it was evicted"
            raise StateError(f"the capsule {name} can't be kept", why, "Take it again")
        with self._lock:
            before = self._entries.get(name)
            if before is not None and before.saved and self._shelf:
                self._shelf.delete(name)
            self._seen.add(capsule)
            self._entries[name] = Entry(name, capsule, pinned, disposable, cost_tokens=cost_tokens, used=self._use())

    def get(self, name: str) -> Capsule | None:
        """A capsule, brought back into memory if it lies on disk; None if there is none of the name.

        Raises:
            CapsuleLost: Its file is damaged or gone. The name is forgotten, and the file left where it is.
            PoolFull: It lies on disk and there is no room for it. It is still there.
        """
        with self._lock:
            entry = self._entries.get(name)
            self.counters.misses += entry is None
        return None if entry is None else self._in_memory(entry)

    def longest_match(self, tokens: Sequence[int]) -> Match | None:
        """The capsule that holds most of a text from its start on, token for token.

        One that turns out to be damaged, or for which there is no room, is passed over for a shorter one.
        """
        with self._lock:
            found = matching(self._entries.values(), list(tokens))
        for entry in found:
            try:
                return Match(entry.name, self._in_memory(entry), entry.capsule.position)
            except (CapsuleLost, PoolFull):
                continue
        with self._lock:
            self.counters.misses += 1
        return None

    def pin(self, name: str) -> None:
        """Never evict it.

        Raises:
            StateError: There is none of the name.
        """
        with self._lock:
            self._named(name).pinned = True

    def unpin(self, name: str, *, disposable: bool = False) -> None:
        """It may be evicted from now on.

        Args:
            name: Whose.
            disposable: Its branch lost, so it goes before others.

        Raises:
            StateError: There is none of the name.
        """
        with self._lock:
            entry = self._named(name)
            entry.pinned, entry.disposable = False, disposable

    def drop(self, name: str) -> None:
        """Forget a name, and delete its file, also one that can't be read. Who holds the capsule may go on using it.

        Raises:
            StateError: The file can't be deleted. The name is still there.
        """
        with self._lock:
            if self._shelf:
                self._shelf.delete(name)
            self._entries.pop(name, None)

    def watch(self, capsule: Capsule) -> None:
        """Reckon with the memory of a capsule that somebody else keeps. Those that are `put` are known anyway."""
        with self._lock:
            self._seen.add(capsule)

    def with_room(self, job: Callable[[], Result], keep: Capsule | None = None) -> Result:
        """Do something that allocates. If the pool is full, make room, and do it again.

        Args:
            job: Has changed nothing when it raises PoolFull.
            keep: What it needs, so that it must not go: the parent of a delta.

        Raises:
            PoolFull: As `make_room`.
        """
        try:
            return job()
        except PoolFull as error:
            sizes_bytes = error.sizes_bytes
        # Only here is all forgotten that the job had in its hands.
        self.make_room(sizes_bytes, keep)
        return job()

    def make_room(self, sizes_bytes: Sequence[int], keep: Capsule | None = None) -> list[Evicted]:
        """Evict, if need be, until the pool can give some pieces of memory.

        Args:
            sizes_bytes: The pieces.
            keep: A capsule that has to stay.

        Returns:
            What was evicted.

        Raises:
            PoolFull: What may go is too little. Nothing was evicted; the error says what is pinned.
        """
        with self._lock:
            if keep is not None:
                self._seen.add(keep)
            going = self._plan(sizes_bytes, keep)
            if going is None:
                self.counters.refusals += 1
                # An error holds on to all that its functions had in their hands: no plan must be among that.
                raise self._refusal(sizes_bytes, keep)
            return [self._evict(entry) for entry in going]

    def save(self, name: str) -> None:
        """Write a capsule into the directory. It stays in memory.

        Raises:
            StateError: There is none of the name, there is no directory, or it can't be written.
        """
        if self._shelf is None:
            raise StateError(f"the capsule {name} can't be saved", "the store has no directory", "Open it with one")
        with self._file_lock:
            with self._lock:
                entry = self._named(name)
            if not entry.saved:
                with self._reading(entry.capsule):
                    self._shelf.save(name, entry.capsule)
                with self._lock:
                    entry.saved = self._entries.get(name) is entry
                    if not entry.saved:
                        # It was dropped meanwhile, or another capsule has its name.
                        self._shelf.delete(name)

    def spill(self, name: str) -> None:
        """Move a capsule to disk: write it, then let go of its memory.

        Raises:
            StateError: As `save`. It is still in memory.
        """
        self.save(name)
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.saved and not entry.capsule.evicted:
                self._let_go(entry)
                self.counters.spills += 1

    def tidy(self, depth: int = FLAT_DEPTH) -> bool:
        """Shorten the chains of one capsule, if there is room for it now. Work for idle time; digests stay the same.

        Args:
            depth: Chains of no more segments are left alone.

        Returns:
            Whether more is to do.
        """
        joined = self._join_runs(depth)
        with self._lock:
            self.counters.joins += joined
            return bool(self._runs_to_join(depth))

    def _named(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise StateError(
                f"there is no capsule {name}", f"those are {', '.join(self.names) or 'none'}", "Put it first"
            )
        return entry

    def _use(self) -> int:
        self._uses += 1
        return self._uses

    @contextmanager
    def _reading(self, *capsules: Capsule) -> Generator[None]:
        """Capsules that must not be evicted for a while."""
        with self._lock:
            self._busy += capsules
        try:
            yield
        finally:
            with self._lock:
                for capsule in capsules:
                    self._busy.remove(capsule)

    def _in_memory(self, entry: Entry) -> Capsule:
        """The capsule of an entry, read from its file if it has to be."""
        with self._lock:
            if not entry.capsule.evicted:
                return self._hit(entry)
        with self._file_lock:
            try:
                # Somebody else may have read it meanwhile.
                capsule = self._load(entry) if entry.capsule.evicted else entry.capsule
            except CapsuleLost:
                with self._lock:
                    self.counters.refusals += 1
                    if self._entries.get(entry.name) is entry:
                        del self._entries[entry.name]
                raise
            with self._lock:
                self._seen.add(capsule)
                self.counters.loads += entry.capsule is not capsule
                entry.capsule = capsule
                return self._hit(entry)

    def _hit(self, entry: Entry) -> Capsule:
        self.counters.hits += 1
        entry.used = self._use()
        return entry.capsule

    def _load(self, entry: Entry) -> Capsule:
        files, text = self._shelf, entry.capsule
        if files is None or not entry.saved:
            raise CapsuleLost(f"the capsule {entry.name} is lost", "somebody else evicted it", REBUILD, text)
        return self.with_room(lambda: files.load(entry.name, text, self._pool))

    def _row(self, one: Candidate, others: Sequence[Candidate]) -> Row:
        entry, own_bytes = one.entry, bytes_of(eviction.freed([one], others))
        sizes = entry.capsule.position, entry.capsule.total_bytes, own_bytes
        return Row(entry.name, *sizes, entry.saved, entry.pinned, entry.disposable)

    def _living(self) -> list[Capsule]:
        """All capsules that hold memory of the pool, as far as anybody told."""
        return [capsule for capsule in self._seen if not capsule.evicted]

    def _candidates(self, keep: Capsule | None = None) -> list[Candidate]:
        """All that is known to hold memory or to lie on disk."""
        named = [Candidate(one, one.capsule is keep or one.capsule in self._busy) for one in self._entries.values()]
        known = {one.entry.capsule for one in named}
        return named + [Candidate(Entry("", one), in_use=True) for one in self._living() if one not in known]

    def _plan(self, sizes_bytes: Sequence[int], keep: Capsule | None) -> list[Entry] | None:
        def enough(segments: Collection[Segment]) -> bool:
            return self._pool.fits(sizes_bytes, [segment.memory for segment in segments])

        going = eviction.plan(self._candidates(keep), enough)
        return None if going is None else [one.entry for one in going]

    def _refusal(self, sizes_bytes: Sequence[int], keep: Capsule | None) -> PoolFull:
        return eviction.refusal(self._candidates(keep), sizes_bytes, self._pool.usage().budget_bytes)

    def _let_go(self, entry: Entry) -> None:
        """Free the memory of an entry's capsule, if no other name has the same."""
        capsule = entry.let_go()
        if all(other.capsule is not capsule for other in self._entries.values()):
            capsule.evict()

    def _evict(self, entry: Entry) -> Evicted:
        self._let_go(entry)
        self.counters.evictions += 1
        if not entry.saved:
            del self._entries[entry.name]
        return Evicted(entry.name, entry.capsule, entry.saved)

    def _runs_to_join(self, depth: int) -> list[Run]:
        """What can be joined of the longest chain for which there is room; nothing if none is too long."""
        living = self._living()
        for capsule in sorted(living, key=lambda one: -one.depth):
            if capsule.depth > depth and capsule.ready and all(copy.error is None for copy in capsule.copies):
                runs = chains.find_runs(capsule, living)
                if runs and self._pool.fits([bytes_of(run) for run in runs]):
                    return runs
        return []

    def _join_runs(self, depth: int) -> bool:
        with self._lock:
            runs = self._runs_to_join(depth)
            try:
                memories = self._pool.allocate_all([bytes_of(run) for run in runs])
            except PoolFull:
                return False
            joining = {segment for run in runs for segment in run}
            holders = [one for one in self._living() if not segments_of(one).isdisjoint(joining)]
        with self._reading(*holders):
            joined = [merged(run, memory) for run, memory in zip(runs, memories, strict=True)]
            with self._lock:
                for capsule in holders:
                    for run, whole in zip(runs, joined, strict=True):
                        chains.replace(capsule, run, whole)
        return bool(runs)
