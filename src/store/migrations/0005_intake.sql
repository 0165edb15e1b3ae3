-- Bytes of the whole file of an object; 0 where that was not noted.
ALTER TABLE instances ADD COLUMN file_bytes INTEGER NOT NULL DEFAULT 0;
