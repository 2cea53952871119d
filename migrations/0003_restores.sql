-- Restores: one at a time in a scope, as a part of its state; and what became of each.

alter table scopes add column restore text; -- JSON of the running restore; null: none
alter table messages add column restore_id uuid; -- of a tombstone: the restore that deleted it

create table restores (
    id uuid primary key,
    tenant_id text not null,
    scope uuid not null,
    backup_id uuid not null,
    mode text not null check (mode in ('merge', 'replace')),
    status text not null check (status in ('running', 'completed', 'failed')),
    restored bigint not null check (restored >= 0),
    skipped bigint not null check (skipped >= 0),
    deleted bigint not null check (deleted >= 0),
    code text, -- why it failed
    detail text,
    check ((status = 'failed') = (code is not null))
);

alter table restores enable row level security, force row level security;
create policy projector on restores to context_sync_projector using (true) with check (true);
create policy ingest on restores for select to context_sync_ingest using (true);
create policy api on restores for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select, insert, update, delete on restores to context_sync_projector;
grant select on restores to context_sync_ingest, context_sync_api;

-- What a restore would do is reckoned from what the fold remembers of each message: no content.
create policy ingest on messages for select to context_sync_ingest using (true);
grant select (scope, tenant_id, id, cursor, content_hash, body_hash, updated_at_us, created_at_us, deleted_at_us, bytes, restore_id)
    on messages to context_sync_ingest;
