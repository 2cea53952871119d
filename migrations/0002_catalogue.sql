-- The catalogue of backups: a projection of the archiver's facts, which stand on a log of their own, and of the
-- requests on the log of events. What is in the archive, its manifests say; this only finds it.

-- How far the log of facts is folded. One row.
create table catalogue_position (
    one boolean primary key default true check (one),
    log_id uuid not null,
    next_offset bigint not null check (next_offset >= 0)
);

-- The founding fields, by their names; times as operators read them.
create table context_backups (
    id uuid primary key,
    tenant_id text not null,
    scope_type text not null check (scope_type in ('user', 'team', 'project', 'org')),
    scope_id text not null,
    scope uuid not null,
    backup_type text not null check (backup_type in ('incremental', 'full', 'on_demand')),
    gcs_path text,
    size_bytes bigint check (size_bytes >= 0),
    record_count bigint check (record_count >= 0),
    checksum text, -- sha256:… of the object's bytes
    status text not null check (status in ('pending', 'completed', 'failed')),
    created_at timestamptz not null, -- the moment that it shows
    completed_at timestamptz,
    expires_at timestamptz, -- null: never
    cursor_first bigint,
    cursor_last bigint,
    digest text,
    detail text, -- why it failed
    verified_at timestamptz,
    -- Its object is deleted. The row stays, so that a repeated fact does not bring it back; nobody is shown it.
    expired_at timestamptz,
    constraint context_backups_completed check (
        (status = 'completed')
        = (gcs_path is not null and size_bytes is not null and record_count is not null and checksum is not null
            and completed_at is not null and cursor_first is not null and cursor_last is not null and digest is not null)
    )
);
-- A scope's backups, the newest first.
create index context_backups_of_scope on context_backups (scope, created_at desc, id desc);
-- What is to expire.
create index context_backups_expiry on context_backups (expires_at) where expired_at is null and status = 'completed';

alter table context_backups enable row level security, force row level security;
create policy projector on context_backups to context_sync_projector, current_user using (true) with check (true);
create policy ingest on context_backups for select to context_sync_ingest using (true);
create policy api on context_backups for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select, insert, update, delete on catalogue_position, context_backups to context_sync_projector;
grant select on context_backups to context_sync_ingest, context_sync_api;
