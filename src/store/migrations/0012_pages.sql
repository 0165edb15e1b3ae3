-- Pages for people: what they search and list by, and the log of what people did.

-- Accession Number (0008,0050), trimmed; '' where the header has none, NULL while it has not been looked for.
ALTER TABLE studies ADD COLUMN accession TEXT;
CREATE INDEX studies_by_accession ON studies (accession) WHERE accession <> '';
CREATE INDEX studies_without_accession ON studies (study) WHERE accession IS NULL;
CREATE INDEX studies_by_time ON studies (last_at);
CREATE INDEX studies_by_source ON studies (source, last_at);
CREATE INDEX studies_by_level ON studies (level, last_at) WHERE level IS NOT NULL;
CREATE INDEX studies_by_end ON studies (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX instances_by_arrival ON instances (received_at);
CREATE INDEX deliveries_by_end ON deliveries (destination, delivered_at) WHERE delivered_at IS NOT NULL;
CREATE INDEX deliveries_failed ON deliveries (destination) WHERE state = 'failed';

-- What people did and were refused. Lines are added and never changed; each carries the digest of the one before it.
CREATE TABLE activity (
    -- from 1, without gaps
    number   INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    -- name of a configured user; '' where nobody is known
    user     TEXT NOT NULL,
    action   TEXT NOT NULL,
    -- never an identifier of a patient or study: a keyed hash in its place
    object   TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    -- of the line before, and of all of this line with that
    previous TEXT NOT NULL,
    digest   TEXT NOT NULL
);
CREATE TRIGGER activity_is_not_changed BEFORE UPDATE ON activity
    BEGIN SELECT RAISE(ABORT, 'lines of the activity log are not changed'); END;
CREATE TRIGGER activity_is_not_deleted BEFORE DELETE ON activity
    BEGIN SELECT RAISE(ABORT, 'lines of the activity log are not deleted'); END;
CREATE TRIGGER activity_follows BEFORE INSERT ON activity
    WHEN NEW.number <> (SELECT ifnull(max(number), 0) + 1 FROM activity)
    BEGIN SELECT RAISE(ABORT, 'a line of the activity log follows the last one'); END;
