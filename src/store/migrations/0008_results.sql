-- Whether a result is news is asked of what is said, not of a digest of it.
ALTER TABLE clinical_results DROP COLUMN digest;

-- For an object that waits for a model server: since when, and of which study its header says it is. NULL: it does not.
ALTER TABLE instances ADD COLUMN waiting_since INTEGER;
ALTER TABLE instances ADD COLUMN waiting_study TEXT;
