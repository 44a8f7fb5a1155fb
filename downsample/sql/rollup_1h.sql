-- Rows of `samples_5m` into rows of `samples_1h`, where raw samples are gone. What the 5 m windows
-- did not see are the drops from one to the next. Equal to `rollup_5m.sql` with
-- $window_ms = 3600000 but for the last bits of sums.
WITH marked AS (
    SELECT
        *,
        window_end_ms + (3600000 - window_end_ms % 3600000) % 3600000 AS hour_end_ms,
        count = 0 AS is_empty
    FROM samples_5m
),
compared AS (
    SELECT
        *,
        lag(last) OVER (
            PARTITION BY metric, series_id, hour_end_ms, is_empty ORDER BY window_end_ms
        ) AS before,
        coalesce(first < before AND NOT isnan(before), false) AS is_drop
    FROM marked
),
listed AS (
    SELECT
        metric,
        series_id,
        hour_end_ms,
        least(sum(count), 2147483647)::INTEGER AS count,
        list(sum ORDER BY window_end_ms) FILTER (NOT is_empty) AS sums,
        list(min ORDER BY window_end_ms) FILTER (NOT is_empty) AS minima,
        list(max ORDER BY window_end_ms) FILTER (NOT is_empty) AS maxima,
        first(first ORDER BY window_end_ms) FILTER (NOT is_empty) AS first,
        last(last ORDER BY window_end_ms) FILTER (NOT is_empty) AS last,
        min(first_timestamp_ms) AS first_timestamp_ms,
        max(last_timestamp_ms) AS last_timestamp_ms,
        flatten(
            list(
                CASE WHEN is_drop THEN [before, reset_drop] ELSE [reset_drop] END
                ORDER BY window_end_ms
            ) FILTER (NOT is_empty)
        ) AS drops,
        least(sum(resets) + count(*) FILTER (is_drop), 2147483647)::INTEGER AS resets,
        last(stale_timestamp_ms ORDER BY window_end_ms) AS stale_timestamp_ms
    FROM compared
    GROUP BY metric, series_id, hour_end_ms
)
SELECT
    metric,
    series_id,
    hour_end_ms AS window_end_ms,
    count,
    CASE WHEN count > 0 THEN compensated_sum(sums) END AS sum,
    CASE
        WHEN count > 0
            THEN list_reduce(
                minima,
                lambda least, next: CASE WHEN isnan(least) OR next < least THEN next ELSE least END
            )
    END AS min,
    CASE
        WHEN count > 0
            THEN list_reduce(
                maxima,
                lambda greatest, next: CASE
                    WHEN isnan(greatest) OR (next > greatest AND NOT isnan(next)) THEN next
                    ELSE greatest
                END
            )
    END AS max,
    first,
    last,
    first_timestamp_ms,
    last_timestamp_ms,
    CASE WHEN count > 0 THEN compensated_sum(drops) END AS reset_drop,
    resets,
    stale_timestamp_ms
FROM listed
ORDER BY metric, series_id, window_end_ms
