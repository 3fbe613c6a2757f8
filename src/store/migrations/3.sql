-- What was asked of people, or withheld from them, and what came of it: tierkeeper messages report
CREATE TABLE suggestions (
    id TEXT PRIMARY KEY NOT NULL,
    asked_unix_ms INTEGER NOT NULL,
    event TEXT NOT NULL,
    persona TEXT NOT NULL,
    variant TEXT NOT NULL,
    text TEXT,                  -- NULL: it was withheld
    outcome TEXT,               -- room, program or nothing; NULL: not known, or not yet
    outcome_after_ms INTEGER,
    acked_after_ms INTEGER
) STRICT;
