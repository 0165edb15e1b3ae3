-- Storage commitment that is asked of destinations, for the reports that they took; and what was acknowledged last.

-- NULL: none is asked for. 'failed': the destination does not keep the report, or never said
ALTER TABLE deliveries ADD COLUMN commitment TEXT CHECK (commitment IN ('asked', 'confirmed', 'failed'));
-- requests so far, when the next one is due, and what became of the last one
ALTER TABLE deliveries ADD COLUMN commitment_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN commitment_next_at INTEGER;
ALTER TABLE deliveries ADD COLUMN commitment_error TEXT;
CREATE INDEX deliveries_unconfirmed ON deliveries (destination, commitment_next_at) WHERE commitment = 'asked';

-- Requests that the node made. An answer may come long after, on an association of the destination's own.
CREATE TABLE confirmations (
    -- Transaction UID (0008,1195)
    uid         TEXT PRIMARY KEY,
    destination TEXT NOT NULL,
    asked_at    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE confirmation_items (
    uid      TEXT NOT NULL REFERENCES confirmations (uid) ON DELETE CASCADE,
    delivery INTEGER NOT NULL REFERENCES deliveries (id) ON DELETE CASCADE,
    PRIMARY KEY (uid, delivery)
) WITHOUT ROWID;
CREATE INDEX confirmation_items_by_delivery ON confirmation_items (delivery);

-- When the object was acknowledged again with a file in place of one that was lost. NULL: it never was. After a power
-- cut it is read back with the newest ones.
ALTER TABLE instances ADD COLUMN replaced_at INTEGER;
CREATE INDEX instances_replaced ON instances (replaced_at) WHERE replaced_at IS NOT NULL;
