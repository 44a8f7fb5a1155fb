"""The Delta tables: schemas, Parquet, commits, snapshots, ordering and merging of rows."""
