-- Rules by called AE title, and storage commitment.

-- The AE title that the study's first object was sent to.
ALTER TABLE studies ADD COLUMN called TEXT;
UPDATE studies SET called =
    (SELECT called FROM instances i WHERE i.study = studies.study ORDER BY i.received_at, i.sop_instance LIMIT 1);

-- When commitment was last given for the object: its retention counts from then.
ALTER TABLE instances ADD COLUMN committed_at INTEGER;

-- Requests for storage commitment, answered or not.
CREATE TABLE commitments (
    id           INTEGER PRIMARY KEY,
    -- the AE title that asked
    source       TEXT NOT NULL,
    -- the AE title that was asked
    called       TEXT NOT NULL,
    -- Transaction UID (0008,1195)
    uid          TEXT NOT NULL,
    requested_at INTEGER NOT NULL,
    -- 1 once every item has its outcome
    judged       INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'answered', 'failed')),
    lease_until  INTEGER,
    attempts     INTEGER NOT NULL DEFAULT 0,
    next_at      INTEGER NOT NULL,
    last_error   TEXT,
    ended_at     INTEGER
);
CREATE INDEX commitments_due ON commitments (next_at) WHERE state = 'pending';
CREATE INDEX commitments_by_uid ON commitments (source, uid);

CREATE TABLE commitment_items (
    commitment   INTEGER NOT NULL REFERENCES commitments (id) ON DELETE CASCADE,
    -- order within the request
    ordinal      INTEGER NOT NULL,
    sop_class    TEXT NOT NULL,
    sop_instance TEXT NOT NULL,
    -- 0: committed; else the Failure Reason (0008,1197)
    outcome      INTEGER NOT NULL,
    PRIMARY KEY (commitment, ordinal)
) WITHOUT ROWID;
