-- What people were told last of each kind of message; the notice is JSON.
CREATE TABLE told (
    event TEXT PRIMARY KEY NOT NULL,
    told_unix_ms INTEGER NOT NULL,
    notice TEXT NOT NULL
) STRICT;
