-- What operators do about dead letters, and the versions of messages that are past.

-- A parked event is folded later, at the log's time at its place, which is the running maximum of append times: what
-- it comes to then must be what it comes to everywhere else. (On rows from before, the append time is the best guess.)
alter table dead_letters add column time_us bigint;
update dead_letters set time_us = append_time_us;
alter table dead_letters alter column time_us set not null;

-- An operator's notes about refused records. No projection: a refused record is an outcome like any other, the same in
-- every copy, so its row stays whatever is done about it. What is marked is done with.
create table dead_letter_marks (
    partition integer not null,
    record_offset bigint not null,
    log_id uuid not null, -- of that log alone
    mark text not null check (mark in ('retried', 'discarded')),
    retried_as text, -- where the new event stands, as 3-12345
    note text not null,
    marked_at timestamptz not null default now(),
    primary key (partition, record_offset, log_id),
    check ((mark = 'retried') = (retried_as is not null))
);
grant select, insert on dead_letter_marks to context_sync_projector;

-- Versions that are not the message, or no more: those that another one took the place of, and those that had to give
-- way when they came. What a message is now is in `messages`: to create one costs nothing here
-- (docs/decisions/0015-past-versions-and-dead-letters.md).
create table message_history (
    id_key uuid not null, -- as in messages
    record_offset bigint not null, -- of the command that decided so, in the scope's partition
    change integer not null, -- which of its changes
    partition integer not null,
    scope uuid not null,
    tenant_id text not null,
    result text not null check (result in ('replaced', 'stale', 'superseded')),
    won_by bigint not null check (won_by > 0), -- the cursor of the version that it gave way to
    decided_at_us bigint not null,
    json_bytes integer not null,
    json text not null, -- the version as a pull would give it; its cursor is null if it never was the message
    primary key (id_key, record_offset, change)
);
-- Rows come in the order of time: a small index is enough to find the old ones.
create index message_history_age on message_history using brin (decided_at_us) with (pages_per_range = 32);

alter table message_history enable row level security, force row level security;
create policy projector on message_history to context_sync_projector using (true) with check (true);
create policy api on message_history for select to context_sync_api
    using (tenant_id = (select current_setting('context_sync.tenant', true)));
grant select, insert, delete on message_history to context_sync_projector;
grant select on message_history to context_sync_api;
