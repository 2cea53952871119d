-- The read model: what the log folds to, as rows. It can be dropped and rebuilt from the log at any
-- time, with the same cursors.
--
-- Times are microseconds since 1970 (columns end in _us): the fold compares them exactly.
-- `scope` is a UUIDv5 of tenant/kind/name: 16 bytes in every index instead of three texts.

-- Who may do what. Each process takes one of these roles when it connects (SET ROLE), so that its
-- login needs no right but membership. The owner, who migrates, is whoever runs this file.
do $$
declare
    name text;
begin
    foreach name in array array['context_sync_projector', 'context_sync_ingest', 'context_sync_api', 'context_sync_watcher'] loop
        if not exists (select from pg_roles where rolname = name) then
            begin
                execute format('create role %I nologin', name);
            exception when duplicate_object or unique_violation then
                null; -- roles belong to the whole server: another database made it just now
            end;
        end if;
        -- Where the owner is no superuser, it must be a member to take the role.
        execute format('grant %I to current_user', name);
        execute format('grant usage on schema context_sync to %I', name);
    end loop;
end
$$;

-- Which log this is the read model of. One row. Another log is refused at start.
create table source (
    one boolean primary key default true check (one),
    log_id uuid not null,
    partitions integer not null check (partitions > 0),
    epoch uuid not null -- of that log under the rules in force
);

-- How far each partition is folded. A batch compares it with where it began, and advances it together
-- with its rows: that fences whoever else thinks it is the projector.
create table positions (
    partition integer primary key check (partition >= 0),
    next_offset bigint not null check (next_offset >= 0),
    time_us bigint not null check (time_us >= 0), -- the running maximum of append times
    rules integer not null check (rules > 0),
    last_offset bigint check (last_offset < next_offset), -- null: nothing folded yet
    last_hash bytea check (length(last_hash) = 32) -- of that record: is this still the same log?
) with (fillfactor = 50); -- updated in place with every batch

create table scopes (
    scope uuid primary key,
    tenant_id text not null,
    kind text not null check (kind in ('user', 'team', 'project', 'org')),
    name text not null,
    head bigint not null check (head >= 0),
    floor bigint not null constraint scopes_floor check (floor between 0 and head),
    clock_us bigint not null,
    live_count bigint not null check (live_count >= 0),
    live_bytes bigint not null check (live_bytes >= 0),
    digest bytea not null check (length(digest) = 32),
    owners integer not null check (owners >= 0),
    json_bytes_max integer not null check (json_bytes_max >= 0), -- no message of it has more: bounds a page
    constraint scopes_last_owner_stays check (kind not in ('team', 'project') or owners > 0)
) with (fillfactor = 50); -- no other index: an update stays on its page

-- Removed members stay, with no role: their devices are told to purge.
create table members (
    scope uuid not null,
    user_id text not null,
    tenant_id text not null,
    role text check (role in ('viewer', 'member', 'admin', 'owner')),
    since_us bigint not null,
    primary key (scope, user_id)
);

-- Each message once, at the cursor of its last change. Deleted ones are tombstones, which keep the
-- version that was deleted.
--
-- A look-up by id or content goes by one column, a hash of scope and id (or content): with two columns,
-- the planner may take the primary key and read a whole scope for each (docs/decisions/0005-rows.md).
create table messages (
    scope uuid not null,
    cursor bigint not null check (cursor > 0),
    id uuid not null,
    id_key uuid not null,
    content_key uuid, -- null: deleted
    tenant_id text not null,
    content_hash bytea not null check (length(content_hash) = 32),
    body_hash bytea not null check (length(body_hash) = 32),
    updated_at_us bigint not null,
    created_at_us bigint not null,
    deleted_at_us bigint, -- null: live
    bytes bigint not null, -- of content and metadata
    json_bytes integer not null, -- of json: a page is measured without reading it
    json text not null, -- the message as a pull gives it, ready to send
    primary key (scope, cursor),
    check ((content_key is null) = (deleted_at_us is not null))
);

-- The rules once more, where a bug cannot pass them: one row an id, one live message a content.
create unique index messages_id on messages (id_key);
create unique index messages_live_content on messages (content_key);

-- What the fold decided of each command, for a day: the answer to it, and to its retries.
create table outcomes (
    command_id uuid primary key,
    scope uuid not null,
    tenant_id text not null,
    actor text not null,
    partition integer not null,
    record_offset bigint not null,
    folded_at_us bigint not null,
    body text not null -- JSON of the outcome
);
-- Kept for a day: compressing one costs as much as writing the rest of a batch's index entries.
alter table outcomes alter column body set storage external;
-- Rows come in the order of time: a small index is enough to find the old ones.
create index outcomes_age on outcomes using brin (folded_at_us) with (pages_per_range = 32);

-- Records that became no rows. `refused`: no event, the same in every copy of the fold. `parked`: the
-- database refused it (a bug); it and all later events of its scope wait for an operator.
create table dead_letters (
    partition integer not null,
    record_offset bigint not null,
    kind text not null check (kind in ('refused', 'parked')),
    scope uuid, -- null: the record names none
    append_time_us bigint not null,
    key bytea not null,
    value bytea not null,
    reason text not null,
    primary key (partition, record_offset)
);
create index dead_letters_parked on dead_letters (scope) where kind = 'parked';

-- Nothing crosses a tenant: queries name it, and these policies enforce it again.

alter table scopes enable row level security, force row level security;
alter table members enable row level security, force row level security;
alter table messages enable row level security, force row level security;
alter table outcomes enable row level security, force row level security;

-- The projector folds all tenants; the owner's security-definer functions below look at all.
create policy projector on scopes to context_sync_projector, current_user using (true) with check (true);
create policy projector on members to context_sync_projector, current_user using (true) with check (true);
create policy projector on messages to context_sync_projector using (true) with check (true);
create policy projector on outcomes to context_sync_projector using (true) with check (true);
grant select, insert, update, delete on all tables in schema context_sync to context_sync_projector;

-- Ingest asks for many requests at once, of any tenant: roles and outcomes, but never a message.
create policy ingest on scopes for select to context_sync_ingest using (true);
create policy ingest on members for select to context_sync_ingest using (true);
create policy ingest on outcomes for select to context_sync_ingest using (true);
grant select on source, positions, scopes, members, outcomes to context_sync_ingest;

-- The api sees the tenant that is set, for the transaction alone; none set, no rows. The sub-select
-- is evaluated once a statement, not once a row.
create policy api on scopes for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
create policy api on members for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
create policy api on messages for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
create policy api on outcomes for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select on source, positions, scopes, members, messages, outcomes to context_sync_api;

-- A page of a pull with all that goes with it, in one round trip and, being stable, one snapshot: a row
-- of the scope and the caller, then the messages, a row each. (Aggregated into one text they would cost
-- more: Postgres copies a large value several times, into memory it asks the kernel for each time.)
-- Sets the tenant first. `privileged` says that the caller needs no membership. The page ends at
-- `page_limit` messages or `page_bytes`, but has one message at least; it is measured before it is read,
-- where it might be too large.
create function pull(
    for_tenant text, of_scope uuid, for_user text, privileged boolean,
    after_cursor bigint, page_limit integer, page_bytes bigint
) returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid,
    message_cursor bigint, message text
) language plpgsql stable as $$
declare
    longest bigint;
    page_end bigint;
begin
    perform set_config('context_sync.tenant', for_tenant, true);
    select s.scope is not null, r.user_id is not null, r.role,
        s.head, s.floor, s.live_count, s.digest, source.epoch, s.json_bytes_max
    into known, membership, role, head, floor, live_count, digest, epoch, longest
    from source
        left join scopes s on s.scope = of_scope and s.tenant_id = for_tenant
        left join members r on r.scope = of_scope and r.tenant_id = for_tenant and r.user_id = for_user;
    if not found then
        return; -- no projector has said yet which log this is
    end if;
    return next;
    if not (privileged or role is not null) or head is null or head <= after_cursor then
        return;
    end if;
    page_end := head;
    if page_limit * longest > page_bytes then
        select max(p.cursor) filter (where p.place = 1 or p.bytes <= page_bytes) into page_end
        from (
            select m.cursor, row_number() over w as place, sum(m.json_bytes) over w as bytes
            from messages m
            where m.scope = of_scope and m.tenant_id = for_tenant and m.cursor > after_cursor
            window w as (order by m.cursor rows between unbounded preceding and current row)
            order by m.cursor
            limit page_limit
        ) p;
    end if;
    return query
        select null::boolean, null::boolean, null::text, null::bigint, null::bigint, null::bigint,
            null::bytea, null::uuid, m.cursor, m.json
        from messages m
        where m.scope = of_scope and m.tenant_id = for_tenant
            and m.cursor > after_cursor and m.cursor <= page_end
        order by m.cursor
        limit page_limit;
end
$$;

revoke all on function pull from public;
grant execute on function pull to context_sync_api;

-- The watcher asks for many callers of any tenant at once, through the two functions below and nothing
-- else: no table is granted to it, and no message is in their answers. The api role cannot call them.

-- What pulls with nothing to send need to know, for many callers at once: numbers of the scope, and
-- the caller's own role in it. Whoever asks names the tenant of each; no row of another one answers.
create function glance(of_scopes uuid[], of_tenants text[], for_users text[])
returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid
) language sql stable security definer
set search_path = context_sync, pg_temp as $$
    select s.scope is not null, r.user_id is not null, r.role,
        s.head, s.floor, s.live_count, s.digest, source.epoch
    from unnest(of_scopes, of_tenants, for_users) with ordinality
            as asked (scope, tenant_id, user_id, place)
        cross join source
        left join scopes s on s.scope = asked.scope and s.tenant_id = asked.tenant_id
        left join members r on r.scope = asked.scope and r.tenant_id = asked.tenant_id
            and r.user_id = asked.user_id
    order by asked.place
$$;
revoke all on function glance from public;
grant execute on function glance to context_sync_watcher;

-- Which of these scopes have gone past these cursors: one question for all who wait. Says nothing but
-- numbers of scopes that the asker has been allowed to pull already.
create function moved(of_scopes uuid[], past bigint[])
returns table (scope uuid, head bigint) language sql security definer
set search_path = context_sync, pg_temp as $$
    select s.scope, s.head
    from unnest(of_scopes, past) as asked (scope, cursor)
        join scopes s on s.scope = asked.scope and s.head > asked.cursor
$$;
revoke all on function moved from public;
grant execute on function moved to context_sync_watcher;
