"""Follows the WAL into InfluxDB: batch by batch, until the server has each or has refused it.

    WAL ──> Renderer: rows, lines ──> InfluxdbClient ──┬─> stored: delivered
     ^                    ^                            ├─> some lines refused: the others again,
     │                    └── parts that go again <────┤    those to the dead letters: dropped
     └── cursor: position and counts, together         └─> not there: wait, and again, for ever

A batch is made of whole records. Only when all of it is settled do position and counts move, both
in one value; it is stored at most once a second and at the end. What was sent after the last stored
cursor is sent again by the next process: the same points over the same points, counted once.

Invariants:
    SINK-7  every sample of a record that the sink has passed is delivered or dropped for a reason:
            accepted since its start = delivered + dropped + pending, at any moment, over restarts.
    SINK-8  a line that InfluxDB refuses costs no other line; it stands in the dead-letter file with
            what the server said.
    SINK-9  a server that is not there, slow, full or locked costs no line: it is asked again, after
            1 s to 60 s or when it said, until it answers.

Limits: READ_BYTES of the WAL at a time and what the renderer says, however long the backlog is.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from bridge.errors import CorruptionError, PrombridgeError
from bridge.write.sinks.cursor import Cursor, load_cursor, store_cursor
from bridge.write.sinks.influxdb.client import (
    SHOWN_LENGTH,
    Delivered,
    InfluxdbClient,
    Rejected,
    Unavailable,
)
from bridge.write.sinks.influxdb.dead_letters import DeadLetters, Refusal
from bridge.write.sinks.influxdb.renderer import Lines, Renderer
from bridge.write.sinks.influxdb.settings import InfluxdbSettings
from bridge.write.sinks.influxdb.verdicts import judge
from bridge.write.wal.log import WriteAheadLog
from bridge.write.wal.record import Record
from bridge.write.wal.tail import WalTail

log = structlog.get_logger()

READ_BYTES = 1 << 20
"""Of the WAL at a time: 16 000 samples of 64 bytes."""
POLL_S = 1.0
"""How long a caught-up sink waits: what came meanwhile makes one batch."""
STORE_S = 1.0
RETRY_S_MIN = 1.0
"""The first wait after a failure; it doubles up to RETRY_S_MAX."""
RETRY_S_MAX = 60.0
REMIND_S = 300.0
"""A refusal that a person must mend is logged again after this long."""


class _StoppedError(Exception):
    """The sink was stopped while a batch was under way."""


@dataclass(slots=True)
class _Batch:
    """Whole records on their way.

    Attributes:
        position: number of the last of them.
        sample_total: samples of the log up to there.
        dropped: samples that no server will see, by reason.
        unforeseen: samples that the log's totals leave out and that are there: of a request that
            was answered 503, because the disk would not say that it has the record.
    """

    position: int
    sample_total: int
    unforeseen: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class InfluxdbSink:
    """Runs on one thread; everything but `run` and `recover` may be asked from any.

    Attributes:
        name: of the sink, in metrics and logs.
        cursor: how far it has come.
        oldest_pending_ms: when the oldest record came that is not settled, Unix ms; 0 without any.
        last_error: why nothing moves; None while it does.
    """

    name = "influxdb"

    def __init__(
        self,
        settings: InfluxdbSettings,
        wal: WriteAheadLog,
        client: InfluxdbClient,
        renderer: Renderer,
        cursor_path: Path,
        clock_s: Callable[[], float] = time.monotonic,
        random_ratio: Callable[[], float] = random.random,
    ) -> None:
        """Connects the parts; nothing is read yet.

        Args:
            settings: of the section `influxdb`.
            wal: the log, of which only what is safe is read.
            client: of the server.
            renderer: makes lines of records.
            cursor_path: where the cursor is stored.
            clock_s: for waiting and reminding.
            random_ratio: from 0 to 1, so that many sinks do not come back at once.
        """
        self._settings = settings
        self._wal = wal
        self._tail = WalTail(wal)
        self._client = client
        self._renderer = renderer
        self._cursor_path = cursor_path
        self._clock_s = clock_s
        self._random_ratio = random_ratio
        self._dead_letters = DeadLetters(settings.dead_letter_path, settings.dead_letter_max_bytes)
        self._stopped = threading.Event()
        self._stored: Cursor | None = None
        self._store_due_s = 0.0
        self._remind_s = self._bury_remind_s = 0.0
        self._is_refused = False
        self._damage: Exception | None = None
        self._former: Cursor | None = None
        try:
            self._former = load_cursor(cursor_path)
        except (CorruptionError, OSError) as error:
            self._damage = error
        former = self._former
        self._is_new = former is None or former.destination != settings.destination
        # A new one has nothing to show before it knows where it begins.
        self.cursor = self._now() if former is None or self._is_new else former
        self.oldest_pending_ms = 0
        self.last_error: str | None = "not asked yet"

    @property
    def stored_position(self) -> int:
        """Number of the last record that is not needed any more, even after a crash; any thread."""
        return self._stored.position if self._stored else 0

    @property
    def request_counts(self) -> dict[str, int]:
        """Writes by what came of them."""
        return self._client.request_counts

    def recover(self) -> None:
        """Finds where to begin; after the log was replayed, before anything is removed from it."""
        cursor = self.cursor
        if self._damage is not None:
            # What is written twice is there once; what is passed over is not there at all.
            log.error(
                "influxdb cursor damaged, beginning at the oldest record", error=str(self._damage)
            )
            self._cursor_path.replace(self._cursor_path.with_suffix(".damaged"))
            cursor = self._oldest(Cursor(destination=cursor.destination))
        elif self._is_new:
            cursor = self._begin()
        elif cursor.position > self._wal.safe_number:
            log.warning(
                "influxdb cursor is ahead of the wal, an older volume came back: beginning at the "
                "oldest record",
                cursor_position=cursor.position,
                wal_position=self._wal.safe_number,
            )
            cursor = self._oldest(cursor)
        self.cursor = cursor
        self._store()

    def run(self) -> None:
        """Works until `stop`, whatever happens: a fault in here must not cost the other sinks."""
        wait_s = RETRY_S_MIN
        while not self._stopped.is_set():
            position = self.cursor.position
            try:
                self._work()
            except _StoppedError:
                break
            except Exception as error:
                self.last_error = f"{type(error).__name__}: {error}"
                log.exception("influxdb sink failed, beginning again at its cursor")
                self._renderer.clear()
                self._tail.close()
                wait_s = RETRY_S_MIN if self.cursor.position > position else wait_s
                self._stopped.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
        self._store()
        self._tail.close()
        self._client.close()

    def stop(self) -> None:
        """Lets `run` end: at once while it waits, else after the request that is under way."""
        self._stopped.set()

    # -- where to begin --

    def _begin(self) -> Cursor:
        """Where a new sink begins, by `influxdb.start`."""
        destination = self._settings.destination
        is_now = self._settings.start == "now"
        cursor = self._now() if is_now else self._oldest(Cursor(destination=destination))
        log.info("influxdb sink is new", start=self._settings.start, position=cursor.position)
        if self._former is not None:
            log.warning(
                "influxdb is another one than before: its counts begin anew, and what the one "
                "before lacks it does not get any more",
                before=self._former.destination,
                now=destination,
                samples_not_delivered_before=self._wal.safe_sample_total
                - self._former.sample_total,
            )
        return cursor

    def _now(self) -> Cursor:
        """Behind what is there: all that is known of it, which before the replay is not all."""
        total = self._wal.safe_sample_total
        return Cursor(self._wal.last_number, total, total, destination=self._settings.destination)

    def _oldest(self, cursor: Cursor) -> Cursor:
        """The counts of `cursor`, before the oldest record."""
        before = self._wal.first_number - 1
        tail = WalTail(self._wal)
        try:
            records = tail.read(before, 1)
            if not records:
                return cursor.rebase(self._wal.safe_number, self._wal.safe_sample_total)
            first = records[0]
            try:
                count = self._renderer.add(first)
            except PrombridgeError:
                count = 0
            self._renderer.clear()
            return cursor.rebase(before, first.sample_total - count)
        finally:
            tail.close()

    # -- batches --

    def _work(self) -> None:
        self._ask(b"")
        while not self._stopped.is_set():
            if not self._step():
                self._stopped.wait(POLL_S)
            if self._clock_s() >= self._store_due_s:
                self._store()

    def _step(self) -> bool:
        """Reads and delivers once; False where there is nothing new."""
        try:
            records = self._tail.read(self.cursor.position, READ_BYTES)
        except OSError as error:
            self.last_error = f"the WAL cannot be read: {error.strerror}"
            log.warning("influxdb sink cannot read the wal, trying again", error=str(error))
            return False
        batch = self._next_batch(records)
        for index, record in enumerate(records, 1):
            count = self._add(batch, record)
            # Records are mostly of one size: the next one would make a second, small request.
            is_full = self._renderer.row_count + count > self._settings.batch_lines
            if is_full or index == len(records):
                self._deliver(batch)
                batch = self._next_batch(records[index:])
        return bool(records)

    def _next_batch(self, records: list[Record]) -> _Batch:
        self.oldest_pending_ms = records[0].receive_ms if records else 0
        return _Batch(self.cursor.position, self.cursor.sample_total)

    def _add(self, batch: _Batch, record: Record) -> int:
        """Adds a record, and what is missing before it, to the batch.

        Returns:
            how many rows it has.
        """
        try:
            count = self._renderer.add(record)
        except PrombridgeError as error:
            # Only after a change of code: every record was decoded before it was written.
            log.exception("wal record skipped", number=record.number, error=str(error))
            count = 0
        lost = record.sample_total - batch.sample_total - count
        if lost < 0:
            batch.unforeseen -= lost
        elif lost:
            is_gone = batch.position + 1 < min(record.number, self._wal.first_number)
            reason = "backlog" if is_gone else "undecodable"
            batch.dropped[reason] = batch.dropped.get(reason, 0) + lost
            log.warning(
                "samples in the wal never reach influxdb",
                reason=reason,
                samples=lost,
                after_record=batch.position,
                next_record=record.number,
            )
        batch.position, batch.sample_total = record.number, record.sample_total
        return count

    def _deliver(self, batch: _Batch) -> None:
        """Settles every line of the batch, then moves."""
        delivered = 0
        for lines in self._renderer.render(self._settings.batch_lines, batch.dropped):
            refused_count = self._settle(lines)
            delivered += len(lines) - refused_count
            if refused_count:
                batch.dropped["rejected"] = batch.dropped.get("rejected", 0) + refused_count
        self._renderer.clear()
        cursor = self.cursor
        dropped = dict(cursor.dropped)
        for reason, count in batch.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        accepted = batch.sample_total - cursor.sample_total + batch.unforeseen
        assert accepted == delivered + sum(batch.dropped.values()), "every row has one fate"
        self.cursor = replace(
            cursor,
            position=batch.position,
            sample_total=batch.sample_total,
            start_total=cursor.start_total - batch.unforeseen,
            delivered=cursor.delivered + delivered,
            dropped=dropped,
        )
        if self._clock_s() >= self._store_due_s:
            self._store()

    def _settle(self, lines: Lines) -> int:
        """Sends lines until each is stored or refused.

        Returns:
            how many were refused.
        """
        self._renderer.suspect(lines.refs, is_suspect=False)
        outcome = self._ask(lines.text.data)
        if isinstance(outcome, Delivered):
            return 0
        refusals: list[Refusal] = []
        waiting = [(list(range(len(lines))), outcome)]
        while waiting:
            numbers, rejected = waiting.pop()
            verdict = judge([lines.line(number) for number in numbers], rejected)
            for reason, places in verdict.refused.items():
                refused = [numbers[place] for place in places]
                self._renderer.suspect(lines.refs[refused], is_suspect=True)
                texts = [lines.line(number) for number in refused]
                refusals.append(Refusal(rejected.status, reason, texts))
            for places in verdict.again:
                part = [numbers[place] for place in places]
                outcome = self._ask(b"".join(lines.line(number) for number in part))
                if isinstance(outcome, Rejected):
                    waiting.append((part, outcome))
        return self._bury(refusals) if refusals else 0

    def _bury(self, refusals: list[Refusal]) -> int:
        """Keeps refused lines; how many there are."""
        line_count = sum(len(refusal.lines) for refusal in refusals)
        status, reason = refusals[0].status, refusals[0].reason
        try:
            self._dead_letters.write(refusals)
        except OSError as error:
            log.error(  # noqa: TRY400 - the message says it all
                "influxdb refused lines that cannot be kept either",
                path=str(self._settings.dead_letter_path),
                error=error.strerror,
                lines=line_count,
                reason=reason[:SHOWN_LENGTH],
            )
        if self._clock_s() >= self._bury_remind_s:
            self._bury_remind_s = self._clock_s() + REMIND_S
            log.warning(
                "influxdb refuses lines, they are kept in the dead-letter file",
                path=str(self._settings.dead_letter_path),
                lines=line_count,
                status=status,
                reason=reason[:SHOWN_LENGTH],
            )
        return line_count

    # -- asking --

    def _ask(self, body: bytes) -> Delivered | Rejected:
        """Sends a body until the server says what becomes of it.

        Raises:
            _StoppedError: the sink is stopped.
        """
        wait_s = RETRY_S_MIN
        may_create = self._settings.create_bucket
        while not self._stopped.is_set():
            outcome = self._client.push(body)
            if not isinstance(outcome, Unavailable):
                self._note_answer()
                return outcome
            cause = outcome.cause
            if outcome.lacks_bucket and may_create:
                failure = self._client.create_bucket()
                if failure is None:
                    log.info("influxdb bucket created", bucket=self._settings.bucket)
                    may_create = False
                    continue
                cause += f"; it cannot be created: {failure}"
            self._note_failure(cause, is_refusal=outcome.is_refusal)
            self._note_oldest()
            jittered_s = wait_s * (1 + self._random_ratio()) / 2
            self._stopped.wait(max(jittered_s, outcome.retry_after_s))
            wait_s = min(2 * wait_s, RETRY_S_MAX)
        raise _StoppedError

    def _note_answer(self) -> None:
        if self.last_error is not None:
            log.info("influxdb answers", url=self._settings.url, bucket=self._settings.bucket)
        self.last_error = None
        self._is_refused = False
        self._remind_s = 0.0

    def _note_failure(self, cause: str, *, is_refusal: bool) -> None:
        self.last_error = cause
        if self._clock_s() < self._remind_s and is_refusal == self._is_refused:
            return
        self._remind_s = self._clock_s() + REMIND_S
        self._is_refused = is_refusal
        if is_refusal:
            log.error("influxdb refuses everything, nothing is lost yet", cause=cause)
        else:
            log.warning("influxdb is not there, trying again until it is", cause=cause)

    def _note_oldest(self) -> None:
        """Since when something waits, where the server has never been there for a first batch."""
        if self.oldest_pending_ms or self._wal.safe_number <= self.cursor.position:
            return
        tail = WalTail(self._wal)
        try:
            self._next_batch(tail.read(self.cursor.position, READ_BYTES))
        finally:
            tail.close()

    def _store(self) -> None:
        """Makes the cursor safe, if it has moved."""
        if self.cursor == self._stored:
            return
        self._store_due_s = self._clock_s() + STORE_S
        try:
            store_cursor(self._cursor_path, self.cursor)
        except OSError as error:
            log.warning("influxdb cursor not stored, trying again", error=str(error))
        else:
            self._stored = self.cursor
