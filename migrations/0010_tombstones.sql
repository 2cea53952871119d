-- Tombstones up to a cursor are deleted when they have expired, without reading the scope's live messages. The
-- expression is the scope, of a tombstone: the planner cannot take the primary key instead, which has the live ones
-- too (docs/decisions/0005-rows.md). Inserting a live message does not touch this index.
create index messages_tombstones on messages ((case when deleted_at_us is not null then scope end), cursor)
    where deleted_at_us is not null;
