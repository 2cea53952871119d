-- By which revision of the fold all rows were folded that an epoch began with (or were rebuilt with, in it), and have been
-- since; 0: by several. A read model that is lost, and filled by another one, cannot know whether cursors still say what they
-- said, and keeps none.
alter table context_sync_settings.epochs
    add column if not exists fold_revision integer not null default 1 check (fold_revision >= 0);
grant update (fold_revision) on context_sync_settings.epochs to context_sync_projector;

-- By which one a lost read model is being filled; 0: by several.
alter table filling add column fold_revision integer not null default 1 check (fold_revision >= 0);
