-- What a pull and a glance say besides: how often rows were replaced by rebuilt ones. A rebuild that mends what a message
-- says leaves its scope's head, floor, count, digest and epoch as they are; a page that was kept is not the mended one.
--
-- Functions of their own: processes of an earlier build go on with `pull` and `glance`, whose plans must not change their
-- results under them. One statement still, and one snapshot.
create function page(
    for_tenant text, of_scope uuid, for_user text, privileged boolean,
    after_cursor bigint, page_limit integer, page_bytes bigint
) returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid,
    message_cursor bigint, message text, rebuilds bigint
) language sql stable as $$
    select p.*, case when p.known is not null then (select sum(rebuilds)::bigint from positions) end
    from pull(for_tenant, of_scope, for_user, privileged, after_cursor, page_limit, page_bytes) p
$$;
revoke all on function page from public;
grant execute on function page to context_sync_api;

create function glances(of_scopes uuid[], of_tenants text[], for_users text[])
returns table (
    known boolean, membership boolean, role text,
    head bigint, floor bigint, live_count bigint, digest bytea, epoch uuid, rebuilds bigint
) language sql stable security definer
set search_path = context_sync, pg_temp as $$
    select g.*, (select sum(rebuilds)::bigint from positions)
    from glance(of_scopes, of_tenants, for_users) g
$$;
revoke all on function glances from public;
grant execute on function glances to context_sync_watcher;
