-- What a site imports of its studies: outcomes, what patients say of themselves, covariates; and how studies are found.

-- The names by which imports find a study, of one of its images: VR LO and SH without padding, NULL where not said.
CREATE TABLE identities (
    study      TEXT PRIMARY KEY REFERENCES studies (study) ON DELETE CASCADE,
    patient    TEXT,
    issuer     TEXT,
    accession  TEXT,
    -- YYYYMMDD, as the header has it
    study_date TEXT
) WITHOUT ROWID;

-- Bytes of the header as text; of what is not ASCII nothing, since its character set is not looked at here.
INSERT INTO identities
SELECT study,
    (SELECT nullif(trim(group_concat(char(value), '')), '')
        FROM json_each(header, '$.copied."1048608".value.bytes') WHERE value > 0 HAVING max(value) < 128),
    (SELECT nullif(trim(group_concat(char(value), '')), '')
        FROM json_each(header, '$.copied."1048609".value.bytes') WHERE value > 0 HAVING max(value) < 128),
    (SELECT nullif(trim(group_concat(char(value), '')), '')
        FROM json_each(header, '$.copied."524368".value.bytes') WHERE value > 0 HAVING max(value) < 128),
    (SELECT nullif(trim(group_concat(char(value), '')), '')
        FROM json_each(header, '$.copied."524320".value.bytes') WHERE value > 0 HAVING max(value) < 128)
FROM instances WHERE sop_instance IN (
    SELECT min(sop_instance) FROM instances
    WHERE study IS NOT NULL AND header IS NOT NULL AND (state = 'scored' OR refusal_code = 'out-of-scope')
    GROUP BY study);
CREATE INDEX identities_by_patient ON identities (patient) WHERE patient IS NOT NULL;
CREATE INDEX identities_by_accession ON identities (accession) WHERE accession IS NOT NULL;

-- One row for each study, since a table of a million studies with many findings is read and written as a whole.
CREATE TABLE study_outcomes (
    study       TEXT PRIMARY KEY REFERENCES studies (study) ON DELETE CASCADE,
    -- JSON: key of a finding → 1 or 0
    outcomes    TEXT NOT NULL,
    imported_at INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO study_outcomes
SELECT study, json_group_object(finding, outcome), max(imported_at) FROM outcomes GROUP BY study;
DROP TABLE outcomes;
ALTER TABLE study_outcomes RENAME TO outcomes;

-- What a patient says, repeated for each study that is here. Nothing that a model inferred is ever in it.
CREATE TABLE study_self_reports (
    study       TEXT PRIMARY KEY REFERENCES studies (study) ON DELETE CASCADE,
    -- JSON list, ascending: categories of CDCREC (1002-5, 2028-9, 2054-5, 2076-8, 2106-3, 2131-1) or keys of a site's own
    -- groups, or one of 'UNK' (unknown) and 'ASKU' (asked, declined). NULL: nothing is said, which is another thing
    race        TEXT,
    -- '2135-2', '2186-5', 'UNK', 'ASKU' or NULL
    ethnicity   TEXT,
    imported_at INTEGER NOT NULL,
    CHECK (race IS NOT NULL OR ethnicity IS NOT NULL)
) WITHOUT ROWID;
INSERT INTO study_self_reports SELECT study, json_array(group_key), NULL, imported_at FROM self_reports;
DROP TABLE self_reports;
ALTER TABLE study_self_reports RENAME TO self_reports;

CREATE TABLE covariates (
    study       TEXT NOT NULL REFERENCES studies (study) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL,
    -- 'csv', 'fhir' or 'sr'
    source      TEXT NOT NULL,
    imported_at INTEGER NOT NULL,
    PRIMARY KEY (study, name)
) WITHOUT ROWID;
