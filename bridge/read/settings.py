"""What a remote read may cost, and what it knows about its clients.

Memory: a read under way holds its answer, encoded (`max_query_bytes`), the rows of one slice and
the row groups that are kept for the next one (144 MiB of samples at worst, `bridge.lake.slices`; of
rollups 300 MiB with what leaves of them):

    max_concurrent * (max_query_bytes + slice) + series_cache_bytes + footer_cache_bytes
    4              * (128 MiB + 300 MiB)       + 256 MiB            + 64 MiB    = 2.0 GiB

at the most; an answer of 10000 series and an hour takes 30 MiB while it is made.
"""

from dataclasses import dataclass

from bridge.errors import ConfigError
from bridge.model.options import Duration, Size, option


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """Settings of the read endpoint."""

    max_concurrent: int = option(
        4, "Reads that run at once, each on one thread; others wait for their turn."
    )
    max_waiting: int = option(
        64, "Reads that wait for their turn; beyond it 503. A dashboard asks for 20 to 50 at once."
    )
    timeout: Duration = option(
        Duration(60),
        "How long a read may take from its request to its last byte; Prometheus gives up after "
        "its remote_timeout, 1m by default.",
    )
    max_body_bytes: Size = option(
        Size(1 << 20),
        "Size of a read request, before and after snappy; larger is 413. A request of 4000 pod "
        "names in one matcher has 256KiB.",
    )
    max_query_bytes: Size = option(
        Size(128 << 20),
        "Bytes of one answer, before snappy; larger is 400. A streamed sample takes 1.5 to 3 "
        "bytes, one of SAMPLES 18, and each series its labels.",
    )
    max_samples: int = option(
        50_000_000,
        "Samples of one answer; more is 400. Prometheus' own limits for serving a read and for "
        "one query are the same.",
    )
    samples_per_chunk: int = option(
        120,
        "Samples of one XOR chunk: 120 as in Prometheus' own blocks; at most 65535.",
    )
    series_cache_bytes: Size = option(
        Size(256 << 20),
        "Memory for label sets read from the lake; a million series take about 250MiB.",
    )
    footer_cache_bytes: Size = option(
        Size(64 << 20),
        "Memory for the footers of Parquet files; a file of a minute takes about 30KiB, one of a "
        "day of 29 million samples 1.2MiB.",
    )
    ignore_matchers: tuple[str, ...] = option(
        (),
        "Labels whose matchers are ignored: external labels that the reading Prometheus adds to "
        "every query and that the writers did not send.",
    )
    external_labels: tuple[str, ...] = option(
        (),
        "Names of the labels that the reading Prometheus strips from answers (its "
        "external_labels): series are sorted as it sees them.",
    )

    lookback: Duration = option(
        Duration(300),
        "The readers' --query.lookback-delta, which they do not send: how old a sample may be that "
        "a plain selector takes.",
    )
    seam: Duration = option(
        Duration(4 * 3600),
        "The end of a query that is answered from raw samples, because a reader mixes in its own: "
        "Prometheus keeps asking for the first 4h that it has itself.",
    )
    local_retention: Duration = option(
        Duration(4 * 3600),
        "How far back from now readers with `read_recent: true` have samples of their own: their "
        "retention. All of it is answered from raw samples.",
    )
    max_weighted_samples: int = option(
        10_000_000,
        "Samples of one avg_over_time answer from rollups that still weighs each window by all of "
        "its samples; larger answers give one sample for several.",
    )

    def __post_init__(self) -> None:
        """Refuses what could not work.

        Raises:
            ConfigError: names the option.
        """
        if not 1 <= self.samples_per_chunk <= 65_535:
            raise ConfigError(
                f"read.samples_per_chunk: {self.samples_per_chunk} is not between 1 and 65535, "
                "what a chunk's header can count"
            )
        if self.max_query_bytes >= 1 << 32:
            raise ConfigError(
                f"read.max_query_bytes: {self.max_query_bytes} is not below 4GiB, what a snappy "
                "block can hold"
            )
        if self.lookback < 0.001:
            raise ConfigError("read.lookback: 0s would find no sample")
        if self.max_weighted_samples < 1:
            raise ConfigError("read.max_weighted_samples: 0 samples would weigh nothing")
        if self.max_concurrent < 1:
            raise ConfigError("read.max_concurrent: 0 reads at once would answer none")
