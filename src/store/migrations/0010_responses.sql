-- What the models said of an image of a study and of the same image changed. Race posteriors are among it.
CREATE TABLE responses (
    study      TEXT NOT NULL REFERENCES studies (study) ON DELETE CASCADE,
    -- key of the clinical model
    model      TEXT NOT NULL,
    race_model TEXT NOT NULL,
    -- keyed hash of the patient: who it is is asked of nobody
    patient    TEXT NOT NULL,
    made_at    INTEGER NOT NULL,
    -- JSON
    answers    TEXT NOT NULL,
    PRIMARY KEY (study, model)
) WITHOUT ROWID;
CREATE INDEX responses_by_age ON responses (made_at);
