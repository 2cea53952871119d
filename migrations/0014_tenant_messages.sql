-- A quota of messages in all scopes of a tenant. What a tenant has is in tenant_usage already, in both units.

-- The table stands beside the read model, and stays when that is dropped: so the column may be there already.
alter table context_sync_settings.quotas
    add column if not exists tenant_messages_max bigint check (tenant_messages_max >= 0);
