-- A record that is parked has no outcome yet, and will have one: whoever asks what became of it is told so.

grant select (partition, record_offset, kind) on dead_letters to context_sync_ingest;

-- Whether the record there is parked, and of that tenant. Says nothing else of it.
create function is_parked(of_tenant text, at_partition integer, at_offset bigint) returns boolean
language sql stable security definer
set search_path = context_sync, pg_temp as $$
    select exists (
        select from dead_letters
        where partition = at_partition and record_offset = at_offset and kind = 'parked'
            and substr(key, 1, octet_length(of_tenant) + 1) = convert_to(of_tenant || '/', 'UTF8'))
$$;
revoke all on function is_parked from public;
grant execute on function is_parked to context_sync_api;
