-- What a connection shows over lake.samples and the other tables of files.

-- Functions of values.

-- A label of a series; empty if it has none of that name, as in PromQL.
CREATE MACRO label(labels, name) AS coalesce(labels[name], '');

-- A point in time as the tables have it.
CREATE MACRO to_ms(moment) AS epoch_ms(moment::TIMESTAMPTZ);

-- And back.
CREATE MACRO to_time(ms) AS make_timestamptz(ms * 1000);

-- The end of the window that a time falls into: open on the left, closed on the right, a multiple
-- of its width since 1970, as the rollups' windows are.
-- (The remainder of a time before 1970 is negative.)
CREATE MACRO window_end_ms(ms, width) AS
    ms + (epoch_ms(width) - ms % epoch_ms(width)) % epoch_ms(width);

CREATE MACRO window_end(moment, width) AS to_time(window_end_ms(to_ms(moment), width));

-- PromQL's increase() of a window (after_ms, until_ms], out of what a rollup row has: from the first
-- to the last sample, over resets, and on to the borders of the window where the series goes on
-- there. NULL for less than two samples.
-- Source: extrapolatedRate of Prometheus' promql/functions.go.
CREATE MACRO extrapolated_increase(
    sample_count, first_value, last_value, drops, first_ms, last_ms, after_ms, until_ms
) AS CASE
    WHEN sample_count > 1 AND last_ms > first_ms THEN
        (last_value - first_value + drops) * (
            (last_ms - first_ms)
            + least(
                CASE
                    WHEN first_ms - after_ms >= 1.1 * (last_ms - first_ms) / (sample_count - 1)
                    THEN 0.5 * (last_ms - first_ms) / (sample_count - 1)
                    ELSE first_ms - after_ms
                END,
                -- A counter was not below zero before it was seen.
                CASE
                    WHEN last_value - first_value + drops > 0 AND first_value >= 0
                    THEN (last_ms - first_ms) * (first_value / (last_value - first_value + drops))
                END
            )
            + CASE
                WHEN until_ms - last_ms >= 1.1 * (last_ms - first_ms) / (sample_count - 1)
                THEN 0.5 * (last_ms - first_ms) / (sample_count - 1)
                ELSE until_ms - last_ms
            END
        ) / (last_ms - first_ms)
    END;

-- Views.

-- A stale marker is no sample. Its bits (bridge.model.staleness) are looked at only where there is a
-- NaN, because the OR stands so: they cost 70 ns a row.
CREATE VIEW samples AS
    SELECT *
    FROM lake.samples
    WHERE NOT isnan(value) OR value::BIT <> (9218868437227405314::BIGINT)::BIT;

-- Of equal times the greater value counts, and NaN only where there is nothing else, as in reads.
CREATE VIEW samples_distinct AS
    SELECT
        metric, series_id, timestamp_ms, time,
        coalesce(max(value) FILTER (NOT isnan(value)), any_value(value)) AS value,
    FROM samples
    GROUP BY metric, series_id, timestamp_ms, time;

-- A window that has a stale marker alone has no samples.
CREATE VIEW samples_5m AS
    SELECT
        *,
        extrapolated_increase(
            count, first, last, reset_drop, first_timestamp_ms, last_timestamp_ms,
            window_end_ms - 300000, window_end_ms
        ) AS increase,
        increase / 300 AS rate,
    FROM lake.samples_5m
    WHERE count > 0;

CREATE VIEW samples_1h AS
    SELECT
        *,
        extrapolated_increase(
            count, first, last, reset_drop, first_timestamp_ms, last_timestamp_ms,
            window_end_ms - 3600000, window_end_ms
        ) AS increase,
        increase / 3600 AS rate,
    FROM lake.samples_1h
    WHERE count > 0;

-- A series has a row a month, and several until they are compacted.
CREATE VIEW series AS
    SELECT metric, series_id, any_value(labels) AS labels
    FROM lake.series
    GROUP BY metric, series_id;

CREATE VIEW metadata AS
    SELECT *
    FROM lake.metadata
    QUALIFY row_number() OVER (PARTITION BY metric ORDER BY seen_ms DESC) = 1;

-- Tables that people type over the views. Those of a metric take it and a range of time, which leave
-- out files and row groups as a WHERE would.

-- Rows of a view with the labels of their series: with_labels('samples').
CREATE MACRO with_labels(relation) AS TABLE
    SELECT rows_of.*, series.labels
    FROM query_table(relation) AS rows_of JOIN series USING (metric, series_id);

-- Samples of one metric as rollup rows, made now: one for each series and window.
CREATE MACRO windows(metric_name, width, after := NULL, until := NULL) AS TABLE
    WITH chosen AS (
        SELECT
            metric, series_id, timestamp_ms, value,
            window_end_ms(timestamp_ms, width) AS window_end_ms,
        FROM samples_distinct
        WHERE metric = metric_name
            AND (after IS NULL OR timestamp_ms > to_ms(after))
            AND (until IS NULL OR timestamp_ms <= to_ms(until))
    ), neighbours AS (
        SELECT
            *,
            lag(value) OVER (
                PARTITION BY metric, series_id, window_end_ms ORDER BY timestamp_ms
            ) AS previous,
        FROM chosen
    ), grouped AS (
        SELECT
            metric,
            series_id,
            window_end_ms,
            count(*) AS count,
            sum(value) AS sum,
            coalesce(min(value) FILTER (NOT isnan(value)), 'nan') AS min,
            coalesce(max(value) FILTER (NOT isnan(value)), 'nan') AS max,
            arg_min(value, timestamp_ms) AS first,
            arg_max(value, timestamp_ms) AS last,
            min(timestamp_ms) AS first_timestamp_ms,
            max(timestamp_ms) AS last_timestamp_ms,
            -- NaN is less than nothing in PromQL; DuckDB takes it for the greatest number.
            coalesce(
                sum(previous) FILTER (value < previous AND NOT isnan(previous)), 0
            ) AS reset_drop,
            count(*) FILTER (value < previous AND NOT isnan(previous)) AS resets,
        FROM neighbours
        GROUP BY metric, series_id, window_end_ms
    )
    SELECT
        *,
        to_time(window_end_ms) AS time,
        extrapolated_increase(
            count, first, last, reset_drop, first_timestamp_ms, last_timestamp_ms,
            window_end_ms - epoch_ms(width), window_end_ms
        ) AS increase,
        increase * 1000 / epoch_ms(width) AS rate,
    FROM grouped;

-- PromQL's rate() of a metric at the end of each window, with labels.
CREATE MACRO rate(metric_name, width, after := NULL, until := NULL) AS TABLE
    SELECT metric, series_id, labels, time, rate
    FROM windows(metric_name, width, after := after, until := until)
        JOIN series USING (metric, series_id)
    WHERE rate IS NOT NULL;

-- PromQL's increase() of a metric at the end of each window, with labels.
CREATE MACRO increase(metric_name, width, after := NULL, until := NULL) AS TABLE
    SELECT metric, series_id, labels, time, increase
    FROM windows(metric_name, width, after := after, until := until)
        JOIN series USING (metric, series_id)
    WHERE increase IS NOT NULL;
