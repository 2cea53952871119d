-- Rebuilding the rows beside the live ones, and epochs: which cursors devices may go on from.

-- How often the rows of the partition were replaced by rebuilt ones. Part of what a batch compares: one that was
-- folded from the rows before must not be written to those after.
alter table positions add column rebuilds bigint not null default 0 check (rebuilds >= 0);

-- Epochs in the order in which they were in force here; the last one is the source's. A cursor says nothing in another
-- epoch, but for what was kept: where the log was cut, what is left of it; where it is recovered, what was archived.
create table epochs (
    number integer primary key check (number > 0),
    epoch uuid not null unique,
    log_id uuid not null,
    -- Scopes without a row in `bases`: kept whole, or not at all.
    keeps_unlisted boolean not null
);

-- What an epoch kept of the one before it: cursors of a scope up to this one say the same in both.
create table bases (
    number integer not null references epochs,
    scope uuid not null,
    base bigint not null check (base >= 0),
    primary key (scope, number)
);

insert into epochs (number, epoch, log_id, keeps_unlisted) select 1, epoch, log_id, false from source;

-- Up to where cursors of an epoch are good in a later one: the least of what was kept since. 0 of an epoch that was
-- never in force here; null of the later one itself. Says nothing but a number of a scope that the asker names.
create function kept(of_scope uuid, of_epoch uuid, in_epoch uuid) returns bigint
language sql stable security definer
set search_path = context_sync, pg_temp as $$
    select case
        when asked.number is null then 0
        else (
            select min(coalesce(b.base, case when e.keeps_unlisted then 9223372036854775807 else 0 end))
            from epochs e left join bases b on b.number = e.number and b.scope = of_scope
            where e.number > asked.number and e.number <= present.number)
        end
    from epochs present
        left join epochs asked on asked.epoch = of_epoch and asked.number <= present.number
    where present.epoch = in_epoch
$$;
revoke all on function kept from public;
grant execute on function kept to context_sync_api, context_sync_ingest;
grant select, insert on epochs, bases to context_sync_projector;
