-- What was decided, with all that it was decided on: sqlite3 tierkeeper.db 'SELECT * FROM decided'
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY NOT NULL,
    record TEXT NOT NULL
) STRICT;

-- For people: one line for each decision.
CREATE VIEW decided AS
SELECT
    id,
    datetime(json_extract(record, '$.unix_ms') / 1000, 'unixepoch') AS at_utc,
    json_extract(record, '$.kind') AS kind,
    json_extract(record, '$.from') AS from_rung,
    json_extract(record, '$.to') AS to_rung,
    json_extract(record, '$.text') AS because
FROM decisions
ORDER BY id;
