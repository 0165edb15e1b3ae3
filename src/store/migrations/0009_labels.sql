-- What is true of studies, as a site imports it: outcomes by finding, and the self-reported group of the patient. Both
-- go with their study. Self-report is kept apart from what any model inferred, and no view shows it.
CREATE TABLE outcomes (
    study       TEXT NOT NULL REFERENCES studies (study) ON DELETE CASCADE,
    finding     TEXT NOT NULL,
    outcome     INTEGER NOT NULL CHECK (outcome IN (0, 1)),
    imported_at INTEGER NOT NULL,
    PRIMARY KEY (study, finding)
) WITHOUT ROWID;

CREATE TABLE self_reports (
    study       TEXT PRIMARY KEY REFERENCES studies (study) ON DELETE CASCADE,
    group_key   TEXT NOT NULL,
    imported_at INTEGER NOT NULL
) WITHOUT ROWID;
