-- What each stable time that is tried on paper has been worth on this machine, in microseconds of the best model's service;
-- only the differences within one tier and ladder mean anything. The one that is gone by has a 1.
CREATE TABLE stable_times (
    tier TEXT NOT NULL,
    ladder TEXT NOT NULL,
    stable_ms INTEGER NOT NULL,
    worth_us INTEGER NOT NULL,
    is_gone_by INTEGER NOT NULL,
    PRIMARY KEY (tier, ladder, stable_ms)
) STRICT;
