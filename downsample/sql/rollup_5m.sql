-- Rows of `samples` into rows of `samples_5m`, with $window_ms = 300000; with 3600000, of
-- `samples_1h`. A row is what PromQL computes at the end of its window (end - W, end].
--
-- DuckDB takes NaN for the greatest number, PromQL for none; stale markers are told from other NaN
-- by their bits. There is one sample at a time in a series: duplicates and replicas were merged.
WITH marked AS (
    SELECT
        metric,
        series_id,
        timestamp_ms,
        value,
        -- % has the sign of what is divided, so times before 1970 round up too.
        timestamp_ms + ($window_ms - timestamp_ms % $window_ms) % $window_ms AS window_end_ms,
        value::BIT = '0111111111110000000000000000000000000000000000000000000000000010'::BIT
            AS is_stale
    FROM samples
),
compared AS (
    SELECT
        *,
        lag(value) OVER (
            PARTITION BY metric, series_id, window_end_ms, is_stale ORDER BY timestamp_ms
        ) AS before,
        NOT is_stale AND value < before AND NOT isnan(before) AS is_drop
    FROM marked
),
listed AS (
    SELECT
        metric,
        series_id,
        window_end_ms,
        coalesce(list(value ORDER BY timestamp_ms) FILTER (NOT is_stale), []) AS numbers,
        coalesce(list(before ORDER BY timestamp_ms) FILTER (is_drop), []) AS drops,
        min(timestamp_ms) FILTER (NOT is_stale) AS first_timestamp_ms,
        max(timestamp_ms) FILTER (NOT is_stale) AS last_timestamp_ms,
        max(timestamp_ms) FILTER (is_stale) AS marker_timestamp_ms
    FROM compared
    GROUP BY metric, series_id, window_end_ms
)
SELECT
    metric,
    series_id,
    window_end_ms,
    len(numbers)::INTEGER AS count,
    CASE WHEN count > 0 THEN compensated_sum(numbers) END AS sum,
    -- The first of equal ones: 0.0 and -0.0 are equal. A NaN gives way to whatever follows.
    CASE
        WHEN count > 0
            THEN list_reduce(
                numbers,
                lambda least, next: CASE WHEN isnan(least) OR next < least THEN next ELSE least END
            )
    END AS min,
    CASE
        WHEN count > 0
            THEN list_reduce(
                numbers,
                lambda greatest, next: CASE
                    WHEN isnan(greatest) OR (next > greatest AND NOT isnan(next)) THEN next
                    ELSE greatest
                END
            )
    END AS max,
    numbers[1] AS first,
    numbers[-1] AS last,
    first_timestamp_ms,
    last_timestamp_ms,
    CASE WHEN count > 0 THEN compensated_sum(drops) END AS reset_drop,
    len(drops)::INTEGER AS resets,
    CASE
        WHEN last_timestamp_ms IS NULL OR marker_timestamp_ms > last_timestamp_ms
            THEN marker_timestamp_ms
    END AS stale_timestamp_ms
FROM listed
ORDER BY metric, series_id, window_end_ms
