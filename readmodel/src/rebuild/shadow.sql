-- A second set of tables, in the schema and by the names that the settings say: the same columns, constraints, indexes
-- (by the same names), policies and grants as the live ones have, whatever migrations made of them.
do $$
declare
    shadow constant text := current_setting('context_sync.shadow');
    live regclass;
    made text;
    part record;
    name text;
begin
    execute format('create schema %I', shadow);
    execute format('grant usage on schema %I to context_sync_projector', shadow);
    foreach name in array string_to_array(current_setting('context_sync.shadowed'), ' ') loop
        live := format('context_sync.%I', name)::regclass;
        made := format('%I.%I', shadow, name);
        execute format('create table %s (like %s including all excluding indexes)', made, live);
        for part in select unnest(reloptions) as setting from pg_class where oid = live loop
            execute format('alter table %s set (%s)', made, part.setting);
        end loop;
        for part in
            select conname, pg_get_constraintdef(oid) as definition from pg_constraint
            where conrelid = live and contype in ('p', 'u', 'x')
        loop
            execute format('alter table %s add constraint %I %s', made, part.conname, part.definition);
        end loop;
        for part in
            select pg_get_indexdef(i.indexrelid) as definition from pg_index i
            where i.indrelid = live and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
        loop
            execute replace(part.definition, ' ON context_sync.', format(' ON %I.', shadow));
        end loop;
        for part in select relrowsecurity, relforcerowsecurity from pg_class where oid = live loop
            if part.relrowsecurity then
                execute format('alter table %s enable row level security', made);
            end if;
            if part.relforcerowsecurity then
                execute format('alter table %s force row level security', made);
            end if;
        end loop;
        for part in
            select format('create policy %I on %s as %s for %s to %s', polname, made,
                    case when polpermissive then 'permissive' else 'restrictive' end,
                    case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
                        when 'd' then 'delete' else 'all' end,
                    (select string_agg(case role when 0 then 'public' else quote_ident(pg_get_userbyid(role)) end, ', ')
                     from unnest(polroles) as role))
                || coalesce(' using (' || pg_get_expr(polqual, polrelid) || ')', '')
                || coalesce(' with check (' || pg_get_expr(polwithcheck, polrelid) || ')', '') as creation
            from pg_policy where polrelid = live
        loop
            execute part.creation;
        end loop;
        for part in
            select privilege_type as privilege, '' as of_column, pg_get_userbyid(grantee) as grantee
            from pg_class, aclexplode(relacl) where oid = live and grantee <> 0
            union all
            select privilege_type, format('(%I)', attname), pg_get_userbyid(grantee)
            from pg_attribute, aclexplode(attacl) where attrelid = live and grantee <> 0
        loop
            execute format('grant %s %s on %s to %I', part.privilege, part.of_column, made, part.grantee);
        end loop;
    end loop;
end
$$
