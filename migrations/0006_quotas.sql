-- Quotas: what a tenant has, summed up as it changes, and what operators have set for it.

-- Compared with a quota before a push is appended, so no scope may be read for it but the push's own. A row a
-- tenant and partition: whoever folds a partition is the only one that touches its rows, so nobody waits for
-- another, and a sum is of a few rows. What there was before stands in partition 0, so that a row of another one
-- may be below zero; the sum of a tenant's rows never is.
create table tenant_usage (
    tenant_id text not null,
    partition integer not null check (partition >= 0),
    live_count bigint not null,
    live_bytes bigint not null,
    primary key (tenant_id, partition)
) with (fillfactor = 50); -- updated in place with every batch

insert into tenant_usage (tenant_id, partition, live_count, live_bytes)
select tenant_id, 0, sum(live_count), sum(live_bytes) from scopes group by tenant_id;

alter table tenant_usage enable row level security, force row level security;
create policy projector on tenant_usage to context_sync_projector, current_user using (true) with check (true);
create policy ingest on tenant_usage for select to context_sync_ingest using (true);
grant select, insert, update, delete on tenant_usage to context_sync_projector;
grant select on tenant_usage to context_sync_ingest;

-- What operators have set is on no log: it stands beside the read model, and stays when that is dropped to be
-- rebuilt. So it may be there already.
create schema if not exists context_sync_settings;
grant usage on schema context_sync_settings to context_sync_ingest;

create table if not exists context_sync_settings.quotas (
    tenant_id text primary key,
    -- null: what the processes are configured with; 0: no quota
    scope_bytes_max bigint check (scope_bytes_max >= 0),
    scope_messages_max bigint check (scope_messages_max >= 0),
    tenant_bytes_max bigint check (tenant_bytes_max >= 0),
    set_at timestamptz not null default now()
);
-- Set by whoever owns it, the login that migrates.
grant select on context_sync_settings.quotas to context_sync_ingest;
