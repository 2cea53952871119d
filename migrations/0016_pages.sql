-- What a pull and a glance say besides: how often rows were replaced by rebuilt ones. A rebuild that mends what a message
-- says leaves its scope's head, floor, count, digest and epoch as they are; a page that was kept is not the mended one.
--
-- Functions of their own: processes of an earlier build go on with `pull` and `glance`, whose plans must not change their
-- results under them.
create function page(
    for_tenant text, of_scope uuid, for_user text, privileged boolean,
    after_cursor bigint, page_limit integer, page_bytes bigint
) returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid,
    message_cursor bigint, message text, rebuilds bigint
) language plpgsql stable as $$
declare
    longest bigint;
    page_end bigint;
begin
    perform set_config('context_sync.tenant', for_tenant, true);
    select s.scope is not null, r.user_id is not null, r.role,
        s.head, s.floor, s.live_count, s.digest, source.epoch, s.json_bytes_max,
        (select sum(p.rebuilds) from positions p)
    into known, membership, role, head, floor, live_count, digest, epoch, longest, rebuilds
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
            null::bytea, null::uuid, m.cursor, m.json, null::bigint
        from messages m
        where m.scope = of_scope and m.tenant_id = for_tenant
            and m.cursor > after_cursor and m.cursor <= page_end
        order by m.cursor
        limit page_limit;
end
$$;
revoke all on function page from public;
grant execute on function page to context_sync_api;

create function glances(of_scopes uuid[], of_tenants text[], for_users text[])
returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid, rebuilds bigint
) language sql stable security definer
set search_path = context_sync, pg_temp as $$
    select s.scope is not null, r.user_id is not null, r.role,
        s.head, s.floor, s.live_count, s.digest, source.epoch, (select sum(p.rebuilds)::bigint from positions p)
    from unnest(of_scopes, of_tenants, for_users) with ordinality
            as asked (scope, tenant_id, user_id, place)
        cross join source
        left join scopes s on s.scope = asked.scope and s.tenant_id = asked.tenant_id
        left join members r on r.scope = asked.scope and r.tenant_id = asked.tenant_id
            and r.user_id = asked.user_id
    order by asked.place
$$;
revoke all on function glances from public;
grant execute on function glances to context_sync_watcher;
