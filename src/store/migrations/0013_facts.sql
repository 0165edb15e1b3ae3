-- What an audit needs of each reported study, so that it reads no headers and puts no scores of images together again.
-- Written with the report, in its transaction; what was reported before has its facts at the first audit.

-- Numbers of a model: its key, a finding of its card, and the threshold by then.
CREATE TABLE fact_outputs (
    id        INTEGER PRIMARY KEY,
    model     TEXT NOT NULL,
    finding   TEXT NOT NULL,
    threshold REAL NOT NULL,
    UNIQUE (model, finding, threshold)
);

CREATE TABLE facts (
    id         INTEGER PRIMARY KEY,
    study      TEXT NOT NULL UNIQUE REFERENCES studies (study) ON DELETE CASCADE,
    -- who the patient is: Patient ID and its issuer; the study itself where it has none
    patient    TEXT NOT NULL,
    issuer     TEXT NOT NULL,
    -- Study Date as YYYY-MM-DD, by the images; NULL where none says it
    study_date TEXT,
    -- views, joined by +
    view       TEXT NOT NULL,
    -- manufacturer and model
    device     TEXT NOT NULL,
    sex        TEXT NOT NULL,
    age_years  REAL
);
CREATE INDEX facts_by_date ON facts (study_date);

CREATE TABLE fact_scores (
    fact   INTEGER NOT NULL REFERENCES facts (id) ON DELETE CASCADE,
    output INTEGER NOT NULL REFERENCES fact_outputs (id),
    score  REAL NOT NULL,
    PRIMARY KEY (fact, output)
) WITHOUT ROWID;

-- What the race model inferred; goes when race scores are past their retention. Never beside what people said.
CREATE TABLE fact_posteriors (
    fact          INTEGER PRIMARY KEY REFERENCES facts (id) ON DELETE CASCADE,
    model         TEXT NOT NULL,
    -- keys of its groups, and a probability of each (JSON)
    groups        TEXT NOT NULL,
    probabilities TEXT NOT NULL
);
