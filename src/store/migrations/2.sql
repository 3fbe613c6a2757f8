-- Messages that have not arrived yet: sqlite3 tierkeeper.db 'SELECT * FROM waiting'

-- A webhook's name holds nothing of its URL. What is NULL in due_unix_ms goes out with the next message that arrives.
CREATE TABLE outbox (
    webhook TEXT NOT NULL,
    id TEXT NOT NULL,
    event TEXT NOT NULL,
    told_unix_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due_unix_ms INTEGER,
    parts TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (webhook, id)
) STRICT;

-- Webhooks that said that they are gone for good; they are not called again.
CREATE TABLE webhooks_gone (
    webhook TEXT PRIMARY KEY NOT NULL,
    status INTEGER NOT NULL,
    gone_unix_seconds INTEGER NOT NULL
) STRICT;

-- For people: one line for each message and webhook.
CREATE VIEW waiting AS
SELECT
    webhook,
    event,
    id,
    datetime(told_unix_ms / 1000, 'unixepoch') AS told_utc,
    attempts,
    datetime(due_unix_ms / 1000, 'unixepoch') AS next_utc
FROM outbox
ORDER BY told_unix_ms;
