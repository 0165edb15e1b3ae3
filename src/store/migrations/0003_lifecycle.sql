-- Completeness of studies, destinations that are down, and the UIDs of the node's own reports.

-- why the last revision was closed, and what its rules found missing (a JSON list of texts)
ALTER TABLE studies ADD COLUMN closed_by TEXT CHECK (closed_by IN ('quiet', 'cap', 'hand'));
ALTER TABLE studies ADD COLUMN missing TEXT;
-- asked for by hand, while the study is open: when, and 1 complete, 0 not, NULL as the rules say
ALTER TABLE studies ADD COLUMN hand_at INTEGER;
ALTER TABLE studies ADD COLUMN hand_complete INTEGER;

-- 1 for what came after its study was reported and, by study.late, is in no report
ALTER TABLE instances ADD COLUMN late INTEGER NOT NULL DEFAULT 0;

-- Every SOP Instance UID that a report of this node ever had. Stays when the report's study is forgotten.
CREATE TABLE own_reports (
    sop_instance TEXT PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO own_reports SELECT sop_instance FROM reports
    UNION SELECT sent_sop_instance FROM deliveries WHERE sent_sop_instance IS NOT NULL;

-- Destinations that could not be reached at least once.
CREATE TABLE destinations (
    name       TEXT PRIMARY KEY,
    -- attempts in a row that did not reach it; 0: it is up
    failures   INTEGER NOT NULL,
    down_since INTEGER,
    -- nothing is sent before
    next_at    INTEGER,
    last_error TEXT
) WITHOUT ROWID;

DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (destination, next_at) WHERE state = 'pending';
