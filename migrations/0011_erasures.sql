-- The erasure of all that a user's scope ever held (docs/decisions/0018-erasure.md).

-- No message of the scope has a cursor up to this one: what had was erased.
alter table scopes add column erased bigint not null default 0;
alter table scopes add constraint scopes_erased check (erased between 0 and floor);

-- Erasures that were accepted: part of what the log folds to.
create table erasures (
    id uuid primary key, -- of the command
    tenant_id text not null,
    scope uuid not null,
    partition integer not null,
    record_offset bigint not null, -- what the log has of before is gone once its retention has removed this
    cursor bigint not null check (cursor > 0),
    erased_at_us bigint not null
);
alter table erasures enable row level security, force row level security;
create policy projector on erasures to context_sync_projector using (true) with check (true);
create policy api on erasures for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select, insert, update, delete on erasures to context_sync_projector;
grant select on erasures to context_sync_api;

-- What the archiver has said of them: part of the catalogue. No key of the other: either may come first.
create table erasures_done (
    scope uuid not null,
    cursor bigint not null,
    erased_from text not null check (erased_from in ('backups', 'tables', 'log')),
    tenant_id text not null,
    done_at_us bigint not null,
    primary key (scope, cursor, erased_from)
);
alter table erasures_done enable row level security, force row level security;
create policy projector on erasures_done to context_sync_projector using (true) with check (true);
create policy api on erasures_done for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select, insert, update, delete on erasures_done to context_sync_projector;
grant select on erasures_done to context_sync_api;

-- An erasure finds the past versions of its scope, and no others'.
create index message_history_scope on message_history (scope);
