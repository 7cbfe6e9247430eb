"""How far a run has come, and how long it will still take."""

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from rsr_ray.errors import counted
from rsr_ray.run.counts import Counts, WrittenUnit
from rsr_ray.run.display import duration, size

NOW_SECONDS = 60.0  # over which the speed of now is measured
LAG = 1.0  # seconds by which a unit may be heard of later than another one
QUEUE = 1000  # shards whose replicas are foreseen


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How far a run has come.

    Bytes are of the shards as they lie in the store; seconds since the run began.
    """

    label: str  # of which run of several
    shards: int
    of_shards: int
    bytes: int
    of_bytes: int
    scored: int
    rejected: dict[str, int]
    of_trajectories: int | None  # about
    tokens_per_second: float | None  # of the last minute
    tokens_per_second_of_run: float | None  # since it began, as its record has them
    padding_share: float | None
    replicas: int  # that the run asked for
    replicas_alive: int | None  # with the student loaded; None where Ray does not say
    out_of_memory_splits: int
    seconds: float
    seconds_left: float | None

    @property
    def share(self) -> float:
        return self.bytes / self.of_bytes if self.of_bytes else 0.0

    @property
    def parts(self) -> list[str]:
        said = [self.label] if self.label else []
        if not self.scored and not self.rejected:
            return [*said, self._first_units, duration(self.seconds)]
        about = f" of about {self.of_trajectories:,}" if self.of_trajectories else ""
        said += [
            f"{self.share:.0%}",
            f"{self.scored:,}{about} trajectories scored",
            f"{self.shards:,} of {self.of_shards:,} shards",
            f"{size(self.bytes)} of {size(self.of_bytes)}",
        ]
        if self.tokens_per_second is not None:
            said.append(
                f"{self.tokens_per_second:,.0f} tokens/s "
                f"({self.tokens_per_second_of_run:,.0f} over the run)"
            )
        if self.padding_share is not None:
            said.append(f"padding {self.padding_share:.0%}")
        alive = "" if self.replicas_alive is None else f"{self.replicas_alive:,} of "
        said.append(f"{alive}{self.replicas:,} replicas{' alive' if alive else ''}")
        if self.rejected:
            reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.rejected.items())
            said.append(f"{sum(self.rejected.values()):,} rejected ({reasons})")
        if self.out_of_memory_splits:
            said.append(f"{self.out_of_memory_splits:,} batches split for memory")
        said.append(duration(self.seconds))
        if self.seconds_left is not None:
            said.append(f"about {duration(self.seconds_left)} left")
        return said

    @property
    def _first_units(self) -> str:
        """What is done before anything is written."""
        of = counted(self.replicas, "replica")
        if not self.replicas_alive:
            return f"loading the student on {of}"
        return f"{self.replicas_alive:,} of {of} alive, scoring the first units"


@dataclass
class Progress:
    """Follows the units of a run as they are written. `state` may be asked by another thread."""

    label: str
    sizes: dict[tuple[str, str], int]  # bytes of each shard to do, by key and version
    rows_before: dict[tuple[str, str], int]  # of each, scored by an earlier run
    replicas: int
    counts: Counts  # of the run
    begun: float
    clock: Callable[[], float] = time.monotonic
    count_replicas: Callable[[], int | None] = lambda: None  # those alive
    shares: dict[tuple[str, str], float] = field(default_factory=dict)
    # of the shards begun, the last row scored
    stops: dict[tuple[str, str], int] = field(default_factory=dict)
    # of the shards begun, time of their last unit
    at_unit: dict[tuple[str, str], float] = field(default_factory=dict)
    # since when the replicas have worked on no shard, or on one without a unit so far
    free_since: list[float] = field(default_factory=list)
    # how long replicas took for the units written, all of them added up, waiting included
    busy_seconds: float = 0.0
    whole: int = 0  # shards that are done
    # time and tokens at the units of the last minute
    recent: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, unit: WrittenUnit) -> None:
        """Follow a unit that `counts` has already."""
        now = self.clock()
        shard = unit.shard
        tokens = self.counts.n_all_tokens
        self.busy_seconds += now - self._since(unit)
        if not unit.last:
            self.at_unit[shard] = now
        else:
            self.free_since.append(now)
            if len(self.free_since) + len(self.at_unit) > self.replicas:
                self.free_since.remove(min(self.free_since))
        self.shares[shard] = max(self.shares.get(shard, 0.0), unit.share)
        self.stops[shard] = max(self.stops.get(shard, 0), unit.stop)
        self.whole += unit.last
        self.recent.append((now, tokens))
        while now - self.recent[0][0] > NOW_SECONDS:
            self.recent.popleft()

    def _since(self, unit: WrittenUnit) -> float:
        """When a replica began with a unit: after the one before it in its shard, or as soon as
        one was free, which may have waited for it.
        """
        before = self.at_unit.pop(unit.shard, None)
        if before is not None:
            return before
        began = self.clock() - unit.seconds
        earlier = [free for free in self.free_since if free <= began + LAG]
        if not earlier:  # the first of a replica
            return began
        since = max(earlier)
        self.free_since.remove(since)
        return since

    def _own(self) -> float:
        """Bytes that this run has done."""
        return self._done() - self._before([*self.shares])

    def _done(self) -> float:
        """Bytes of the shards to do, up to where they are scored."""
        return sum(self.sizes[shard] * share for shard, share in list(self.shares.items()))

    def _before(self, shards: Collection[tuple[str, str]]) -> float:
        """Bytes of these that an earlier run has scored, about."""
        a_row = self._a_row()
        return sum(min(self.sizes[shard], self.rows_before[shard] * a_row) for shard in shards)

    def _a_row(self) -> float:
        """Bytes of a row, on the average over the shards begun."""
        return self._done() / max(1, sum(self.stops.values()))

    def _left(self, own: float) -> float | None:
        """Seconds until the last replica is done, at the speed of replicas so far, where each
        takes the next shard in turn; None before that is known. `own` are the bytes done.
        """
        if self.busy_seconds <= 0 or own <= 0:
            return None
        a_second = own / self.busy_seconds  # bytes of one replica
        now = self.clock()
        a_row = self._a_row()
        a_unit = self.busy_seconds / self.counts.n_units
        begun: list[float] = []  # of each shard, seconds until it is done
        waiting: list[float] = []
        for shard, n_bytes in self.sizes.items():
            if shard in self.at_unit:
                # worked on since its last unit, at most as long as one takes
                since = min(now - self.at_unit[shard], a_unit)
                begun.append(max(0.0, n_bytes * (1 - self.shares[shard]) / a_second - since))
            elif shard not in self.shares:
                waiting.append(max(0.0, n_bytes - self.rows_before[shard] * a_row) / a_second)
        # the next shards are in the hands of the replicas that have written nothing of theirs yet
        at_next = [now - since for since in sorted(self.free_since)]
        begun += [max(0.0, all_of - some) for all_of, some in zip(waiting, at_next, strict=False)]
        return last_done(begun, waiting[len(at_next) :], self.replicas)

    def state(self) -> Scoring:
        counts = self.counts
        now = self.clock()
        own = self._own()
        total = sum(self.sizes.values())
        of_own = total - self._before(self.sizes)  # what this run has to do
        about = round(counts.n_rows * of_own / own) if own > 0 else None
        speed, speed_of_run = self._speeds(now)
        return Scoring(
            label=self.label,
            shards=self.whole,
            of_shards=len(self.sizes),
            bytes=round(self._done()),
            of_bytes=total,
            scored=counts.n_scored,
            rejected=dict(counts.rejected.most_common()),
            of_trajectories=None if about is None else max(counts.n_rows, about),
            tokens_per_second=speed,
            tokens_per_second_of_run=speed_of_run,
            padding_share=counts.padding_share,
            replicas=self.replicas,
            replicas_alive=self.count_replicas(),
            out_of_memory_splits=counts.splits,
            seconds=now - self.begun,
            seconds_left=self._left(own),
        )

    def _speeds(self, now: float) -> tuple[float | None, float | None]:
        """Tokens a second over the last minute, and since the run began; None before any."""
        n_tokens = self.counts.n_all_tokens
        if not n_tokens:
            return None, None
        of_run = n_tokens / (now - self.begun)
        then, before = self.recent[0]
        lately = (n_tokens - before) / (now - then) if now > then and n_tokens > before else of_run
        return lately, of_run


def last_done(begun: list[float], waiting: list[float], replicas: int) -> float:
    """When the last replica is done, in seconds: with what it has begun, and then with the next
    that waits, each time that one is free.
    """
    loads = sorted(begun, reverse=True)[:replicas]
    loads += [0.0] * (replicas - len(loads))
    heapq.heapify(loads)
    # of a queue too long to go through each time, the beginning is shared out evenly
    early = sum(waiting[:-QUEUE]) / replicas
    for seconds in waiting[-QUEUE:]:
        heapq.heapreplace(loads, loads[0] + seconds)
    return early + max(loads)
