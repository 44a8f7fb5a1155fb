"""SQL over the lake: `connect` gives a DuckDB connection, `prombridge sql` is a shell on one."""

from bridge.sql.connection import connect as connect
