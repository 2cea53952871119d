-- Inserts the messages and outcomes of a batch, or none of them if a message, a content or a command among them is there
-- already: the unique indexes tell, which costs nothing beside inserting. What they refuse is caught here, so that it is no
-- error in the server's log; but a cursor that is taken is a bug, and an error. Which set of tables it is, the caller's
-- search path says.
create function insert_new(
    scopes uuid[], cursors bigint[], ids uuid[], id_keys uuid[], content_keys uuid[], tenants text[],
    content_hashes bytea[], body_hashes bytea[], updated bigint[], created bigint[], deleted bigint[], sizes bigint[],
    json_sizes integer[], jsons text[], restores uuid[],
    commands uuid[], outcome_scopes uuid[], outcome_tenants text[], actors text[], partitions integer[],
    record_offsets bigint[], folded bigint[], bodies text[]
) returns boolean language plpgsql as $$
declare
    refused_by text;
begin
    insert into messages (scope, cursor, id, id_key, content_key, tenant_id, content_hash, body_hash,
        updated_at_us, created_at_us, deleted_at_us, bytes, json_bytes, json, restore_id)
    select unnest(scopes), unnest(cursors), unnest(ids), unnest(id_keys), unnest(content_keys), unnest(tenants),
        unnest(content_hashes), unnest(body_hashes), unnest(updated), unnest(created), unnest(deleted),
        unnest(sizes), unnest(json_sizes), unnest(jsons), unnest(restores);
    insert into outcomes (command_id, scope, tenant_id, actor, partition, record_offset, folded_at_us, body)
    select unnest(commands), unnest(outcome_scopes), unnest(outcome_tenants), unnest(actors), unnest(partitions),
        unnest(record_offsets), unnest(folded), unnest(bodies);
    return true;
exception when unique_violation then
    get stacked diagnostics refused_by = constraint_name;
    if refused_by = 'messages_pkey' then
        raise;
    end if;
    return false;
end
$$;
revoke all on function insert_new from public;
grant execute on function insert_new to context_sync_projector;
