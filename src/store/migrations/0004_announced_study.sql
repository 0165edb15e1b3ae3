-- The study that the sender of an object named before its data set was read (the path of a STOW-RS request); NULL
-- where it named none.
ALTER TABLE instances ADD COLUMN announced_study TEXT;
