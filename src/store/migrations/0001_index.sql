-- The index: what became of every object, study, report and delivery.
-- Times are microseconds since 1970-01-01T00:00:00Z. Paths are relative to the data folder.

CREATE TABLE node (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE studies (
    study          TEXT PRIMARY KEY,
    -- 'study', or 'object': an object whose study could not be read, listed under its own SOP Instance UID
    kind           TEXT NOT NULL CHECK (kind IN ('study', 'object')),
    state          TEXT NOT NULL CHECK (state IN ('open', 'reported', 'delivered', 'refused', 'failed')),
    source         TEXT NOT NULL,
    revision       INTEGER NOT NULL,
    -- raised by everything that a running analysis would miss
    version        INTEGER NOT NULL,
    first_at       INTEGER NOT NULL,
    last_at        INTEGER NOT NULL,
    lease_until    INTEGER,
    attempts       INTEGER NOT NULL DEFAULT 0,
    interrupted    INTEGER NOT NULL DEFAULT 0,
    closed_at      INTEGER,
    complete       INTEGER,
    level          TEXT,
    assessment     TEXT,
    refusal_code   TEXT,
    refusal_detail TEXT,
    error          TEXT
);
CREATE INDEX studies_by_state ON studies (state, last_at);

CREATE TABLE instances (
    sop_instance    TEXT PRIMARY KEY,
    -- known once the header is read
    study           TEXT REFERENCES studies (study),
    series          TEXT,
    sop_class       TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    -- BLAKE3 over the bytes of the data set
    digest          TEXT NOT NULL,
    bytes           INTEGER NOT NULL,
    -- NULL once the object is past its retention
    path            TEXT,
    calling         TEXT NOT NULL,
    called          TEXT NOT NULL,
    peer            TEXT NOT NULL,
    received_at     INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('received', 'scored', 'refused')),
    lease_until     INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    interrupted     INTEGER NOT NULL DEFAULT 0,
    refusal_code    TEXT,
    refusal_detail  TEXT,
    header          TEXT,
    pixel_digest    TEXT,
    -- the race scores are past their retention
    scores_expired  INTEGER NOT NULL DEFAULT 0,
    read_at         INTEGER
);
CREATE INDEX instances_by_study ON instances (study);
CREATE INDEX instances_unread ON instances (received_at) WHERE state = 'received';

CREATE TABLE scores (
    sop_instance TEXT NOT NULL REFERENCES instances (sop_instance) ON DELETE CASCADE,
    -- order within the instance
    ordinal      INTEGER NOT NULL,
    model        TEXT NOT NULL,
    contract     TEXT NOT NULL,
    purpose      TEXT NOT NULL CHECK (purpose IN ('race', 'clinical')),
    outputs      TEXT NOT NULL,
    PRIMARY KEY (sop_instance, ordinal)
) WITHOUT ROWID;

CREATE TABLE reports (
    id           INTEGER PRIMARY KEY,
    study        TEXT NOT NULL REFERENCES studies (study) ON DELETE CASCADE,
    revision     INTEGER NOT NULL,
    disclosure   TEXT NOT NULL CHECK (disclosure IN ('withheld', 'probabilities')),
    sop_class    TEXT NOT NULL,
    sop_instance TEXT NOT NULL UNIQUE,
    series       TEXT NOT NULL,
    -- NULL once the file is past its retention
    path         TEXT,
    created_at   INTEGER NOT NULL,
    -- the report of the same class that this one replaces
    predecessor  TEXT,
    -- for a fall-back in another SOP class: the report that destinations are offered first
    variant_of   INTEGER REFERENCES reports (id) ON DELETE CASCADE,
    -- 1 for the reports of the study's last revision that was reported
    current      INTEGER NOT NULL
);
CREATE INDEX reports_by_study ON reports (study, disclosure, id);

CREATE TABLE deliveries (
    id                INTEGER PRIMARY KEY,
    report            INTEGER NOT NULL REFERENCES reports (id) ON DELETE CASCADE,
    -- the report's study, repeated for the order of deliveries to one destination
    study             TEXT NOT NULL,
    destination       TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'superseded')),
    lease_until       INTEGER,
    attempts          INTEGER NOT NULL DEFAULT 0,
    queued_at         INTEGER NOT NULL,
    next_at           INTEGER NOT NULL,
    last_error        TEXT,
    delivered_at      INTEGER,
    sent_sop_class    TEXT,
    sent_sop_instance TEXT,
    UNIQUE (report, destination)
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_by_study ON deliveries (study, destination);
CREATE INDEX deliveries_by_sent ON deliveries (sent_sop_instance) WHERE sent_sop_instance IS NOT NULL;

CREATE TABLE conflicts (
    id           INTEGER PRIMARY KEY,
    sop_instance TEXT NOT NULL,
    digest       TEXT NOT NULL,
    bytes        INTEGER NOT NULL,
    path         TEXT NOT NULL,
    calling      TEXT NOT NULL,
    peer         TEXT NOT NULL,
    received_at  INTEGER NOT NULL,
    UNIQUE (sop_instance, digest)
);
