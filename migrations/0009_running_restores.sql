-- Before a restore is asked for, the scope's running one is looked up; nearly all have ended.
create index restores_running on restores (scope) where status = 'running';
