"""The InfluxDB sink: follows the WAL, writes line protocol through InfluxDB's v2 API."""
