-- Drills: backups that were read and compared with the live rows. A projection of the archiver's facts, as the catalogue is.

create table drills (
    id uuid primary key,
    drilled_at timestamptz not null,
    scopes bigint not null check (scopes >= 0), -- compared
    failures jsonb not null -- scope, backup_id and problem of each that did not agree
);
-- The newest one.
create index drills_newest on drills (drilled_at desc);

-- They name scopes of all tenants: for operators, and for the archiver, which goes on where the last one ended.
grant select, insert, update, delete on drills to context_sync_projector;
grant select on drills to context_sync_ingest;
