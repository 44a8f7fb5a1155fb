"""Every active series once, and the remote-write bodies that name them.

The registry holds canonical labels as ids into one table of (name, value) pairs. Decoding lives in
it because it consists of looking series up: the raw bytes of a label set, hashed, find the series
without being parsed; only a label set that was never seen in these bytes is validated.

How a body is judged, in this order:
    1. The whole body is well-formed, or CorruptBody; nothing is registered before that is known.
    2. A series counts as its samples, at least as one: more than `limits.sample_count_max` are
       TooManySamples, more samples than rows left in the arrays RowsFull.
    3. Series by series, as they come: histograms are counted and refused; in a replay a series
       whose samples are all in `refused` is passed over; labels (bad_symbol_ref, label_limit, then
       label by label invalid_name, label_limit, invalid_utf8, then duplicate_label, missing_name);
       no_samples (2.0; an empty series of 1.0 is passed over); the samples one by one
       (timestamp_out_of_range, too_far_in_future). What has a sample left is registered
       (series_id_collision, series_limit) and its samples become rows.

Limits and the future are a matter of receipt: a replay is told what was refused and applies none.

Limits here:
    symbols of one 2.0 body   2^21 = 2_097_152, 40 bytes each while it is decoded: 80 MiB
    series of one body        `limits.sample_count_max`, 56 bytes each while it is decoded
    fingerprints              max(65_536, 4 per series), 16 bytes each at a load of 0.56 to 0.7
    remembered metadata       262_144 metrics, 24 bytes each at a load of 0.5: 12 MiB
    labels of all series      4 GiB of pairs' text; past it new series are refused as series_limit
"""

from bridge.wire.rejections import REASONS

try:
    from bridge.wire._series import SeriesRegistry
except ImportError:
    from bridge.wire.twins.series import SeriesRegistry  # type: ignore[assignment]  # a twin

__all__ = ["REASONS", "SeriesRegistry"]
