-- Results of clinical products that score images on their own, and the studies that wait for one.

CREATE TABLE clinical_results (
    id          INTEGER PRIMARY KEY,
    -- may be of a study that is not known yet: a result can arrive before its images
    study       TEXT NOT NULL,
    -- the package by whose card it was read
    model       TEXT NOT NULL,
    -- the SOP Instance UID of a report, or the digest of a row of a table
    source      TEXT NOT NULL,
    -- of what is said: twice the same is nothing new
    digest      TEXT NOT NULL,
    -- by the product, and here
    observed_at INTEGER,
    received_at INTEGER NOT NULL,
    version     TEXT NOT NULL,
    -- JSON lists
    predecessors TEXT NOT NULL,
    said        TEXT NOT NULL,
    -- 1 for what came after its study was reported and, by study.late, is in no report
    late        INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, source)
);
CREATE INDEX clinical_results_by_study ON clinical_results (study, model);

-- Products that may see an image of a study: it is not closed without a result of theirs before their time is over.
CREATE TABLE awaited_results (
    study TEXT NOT NULL,
    model TEXT NOT NULL,
    PRIMARY KEY (study, model)
) WITHOUT ROWID;
