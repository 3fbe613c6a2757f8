-- What was learned of models, kept so that it can be asked by hand: sqlite3 tierkeeper.db 'SELECT * FROM learned'

-- A model, and everything that what it takes depends on.
CREATE TABLE models (
    key TEXT PRIMARY KEY NOT NULL,
    server TEXT NOT NULL,
    model TEXT NOT NULL,
    digest TEXT,
    context_tokens INTEGER,
    parallel_slots INTEGER,
    cache_types TEXT,
    gpu_layers TEXT,
    weights TEXT,
    seen_unix_seconds INTEGER NOT NULL
) STRICT;

-- What it was seen to take in each of its last eight loads; sighting 1 is the oldest.
CREATE TABLE footprints (
    key TEXT NOT NULL REFERENCES models (key) ON DELETE CASCADE,
    sighting INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    vram_bytes INTEGER NOT NULL,
    PRIMARY KEY (key, sighting)
) STRICT;

-- How quick it was when it was measured last.
CREATE TABLE speeds (
    key TEXT PRIMARY KEY NOT NULL REFERENCES models (key) ON DELETE CASCADE,
    load_ms INTEGER,
    first_token_ms INTEGER,
    prompt_tokens_per_second REAL,
    predicted_tokens_per_second REAL,
    continues_reply INTEGER
) STRICT;

-- For people: one line for each model.
CREATE VIEW learned AS
SELECT
    models.model,
    models.context_tokens,
    models.server,
    count(footprints.sighting) AS sightings,
    round(max(footprints.memory_bytes) / 1048576.0, 1) AS memory_mib,
    round(max(footprints.vram_bytes) / 1048576.0, 1) AS vram_mib,
    speeds.load_ms,
    speeds.first_token_ms,
    round(speeds.prompt_tokens_per_second, 1) AS prompt_tokens_per_second,
    round(speeds.predicted_tokens_per_second, 1) AS predicted_tokens_per_second,
    speeds.continues_reply,
    datetime(models.seen_unix_seconds, 'unixepoch') AS seen_utc
FROM models
LEFT JOIN footprints USING (key)
LEFT JOIN speeds USING (key)
GROUP BY models.key
ORDER BY models.model, models.context_tokens;
