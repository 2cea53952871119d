-- Filling a read model that was lost: which epoch it is of, and when it may be asked.

-- Where the log ended when an empty read model was found beside it: a row a partition, until all of that is folded.
-- Nobody can say whether devices have seen more of the log than is left of it. So cursors are kept as far as it comes to
-- here, and those given out later are of another epoch. Before that is folded it is not known what is kept, and a scope
-- that is not there may be one that is not folded yet: `source` stays empty for so long, and whoever asks comes back.
create table filling (
    partition integer primary key check (partition >= 0),
    log_id uuid not null,
    until_offset bigint not null check (until_offset >= 0)
);
grant select, insert, update, delete on filling to context_sync_projector;

-- Epochs are on no log either: they stay when the read model is dropped to be filled anew, or devices that know one which
-- began meanwhile could keep nothing of it. So they may be there already.
create table if not exists context_sync_settings.epochs (like epochs including all);
create table if not exists context_sync_settings.bases (
    number integer not null references context_sync_settings.epochs on delete cascade,
    scope uuid not null,
    base bigint not null check (base >= 0),
    primary key (scope, number)
);
insert into context_sync_settings.epochs select * from epochs;
insert into context_sync_settings.bases select * from bases;
drop table bases, epochs;
grant usage on schema context_sync_settings to context_sync_projector;
grant select, insert, delete on context_sync_settings.epochs, context_sync_settings.bases to context_sync_projector;

-- As before, of the tables where they are now.
alter function kept(uuid, uuid, uuid) set search_path = context_sync_settings, pg_temp;
