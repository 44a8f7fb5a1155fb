-- The sum of a list of doubles as PromQL's sum_over_time adds them: Neumaier's variant of Kahan's
-- compensated sum, which gives the compensation up where the total becomes infinite.
-- Source: prometheus, util/kahansum.
CREATE OR REPLACE TEMP MACRO compensated_sum(numbers) AS (
    list_transform(
        [
            list_reduce(
                list_transform(numbers, lambda number: {total: number, lost: 0.0::DOUBLE}),
                lambda state, next: CASE
                    WHEN isinf(state.total + next.total)
                        THEN {total: state.total + next.total, lost: 0.0::DOUBLE}
                    WHEN abs(state.total) >= abs(next.total)
                        THEN {
                            total: state.total + next.total,
                            lost: state.lost
                                + ((state.total - (state.total + next.total)) + next.total)
                        }
                    ELSE {
                        total: state.total + next.total,
                        lost: state.lost
                            + ((next.total - (state.total + next.total)) + state.total)
                    }
                END,
                {total: 0.0::DOUBLE, lost: 0.0::DOUBLE}
            )
        ],
        lambda state: CASE
            WHEN isinf(state.total) THEN state.total
            -- A NaN gets its bits from the machine that made it, so all are made one.
            WHEN isnan(state.total + state.lost) THEN 'nan'::DOUBLE
            ELSE state.total + state.lost
        END
    )[1]
);
