//! Holding the live set where it is, and putting the rebuilt rows in its place.

use std::time::{Duration, Instant};

use model::{FoldRevision, ScopeKey};

use super::{Extent, OF_NO_SCOPE, REPLACED, Rebuild, TAKEN_AWAY, mark};
use crate::{
    connect::{DatabaseRole, ProjectionSet},
    epochs::{self, NewEpoch},
    error::ReadModelError,
    projection::Position,
};

/// How long whoever reads the live tables may have to wait for whoever waits for them: less than what Postgres takes
/// two that wait for each other for.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '300ms'";
/// A vacuum that Postgres began by itself gives way to whoever has waited for longer than its deadlock timeout.
const VACUUM_TIMEOUT: &str = "select set_config('lock_timeout',
    (1000 * extract(epoch from current_setting('deadlock_timeout')::interval) + 500)::int || 'ms', true)";
/// Else, migrations wait until this is over.
const IS_MIGRATING: &str = "select not pg_try_advisory_xact_lock(hashtext('context_sync migrate'))";
/// How long a commit under way may take.
const COMMIT_TIMEOUT: &str = "set local lock_timeout = '500ms'";
/// How long whoever asked before is waited for, and how long apart that is looked for.
const OLDER_MAX: Duration = Duration::from_millis(300);
const OLDER_PAUSE: Duration = Duration::from_millis(5);
/// A lock was not had in time, or two waited for each other.
const NOT_HAD: [&str; 2] = ["55P03", "40P01"];

impl Rebuild {
    /// Keeps the live positions where they are until [`Self::release`] or [`Self::swap`]; where they are. Whoever
    /// commits waits; whoever reads does not. `None` if somebody had the tables for too long: then nobody waits, and
    /// it may be tried again.
    pub async fn hold(&mut self) -> Result<Option<Vec<Position>>, ReadModelError> {
        self.execute("begin".to_owned()).await?;
        self.is_holding = true;
        // No vacuum and no migration of either set from here on; nobody else waits for that.
        let is_migrating: bool =
            sqlx::query_scalar(IS_MIGRATING).fetch_one(&mut self.owner).await?;
        if is_migrating {
            self.release().await?;
            return Ok(None);
        }
        let both = format!(
            "{VACUUM_TIMEOUT}; lock table {} in share update exclusive mode",
            self.both_sets()
        );
        if !self.try_lock(both).await? {
            return Ok(None);
        }
        if mark(&mut self.owner, &self.extent).await? != self.mark {
            return Err(ReadModelError::MigratedMeanwhile);
        }
        // The whole table, not its rows: who waits for it has locked nothing yet, and is in nobody's way when all is
        // locked.
        let positions =
            format!("{COMMIT_TIMEOUT}; lock table context_sync.positions in exclusive mode");
        match self.try_lock(positions).await? {
            true => Ok(Some(self.positions(ProjectionSet::Live).await?)),
            false => Ok(None),
        }
    }

    /// False if a lock is not had in time: then all are let go of.
    async fn try_lock(&mut self, statements: String) -> Result<bool, ReadModelError> {
        let statements = sqlx::AssertSqlSafe(statements);
        let Err(error) = sqlx::raw_sql(statements).execute(&mut self.owner).await else {
            return Ok(true);
        };
        self.release().await?;
        let code = error.as_database_error().and_then(|error| error.code());
        match code.is_some_and(|code| NOT_HAD.contains(&&*code)) {
            true => Ok(false),
            false => Err(error.into()),
        }
    }

    /// The replaced tables of both sets, for a statement. The positions come first, the live ones before the rebuilt.
    fn both_sets(&self) -> String {
        let of = |schema: &'static str| REPLACED.map(|table| format!("{schema}.{table}"));
        [of(ProjectionSet::Live.schema()), of(self.extent.set().schema())].concat().join(", ")
    }

    /// Lets the live set move on.
    pub async fn release(&mut self) -> Result<(), ReadModelError> {
        if std::mem::take(&mut self.is_holding) {
            self.execute("rollback".to_owned()).await?;
        }
        Ok(())
    }

    /// Puts the rebuilt rows in the place of the live ones, which are held, and an epoch in force. False if somebody
    /// had the tables for too long, or (`patient`) goes on with a snapshot from before the last records were folded:
    /// then nothing is changed, all is let go of, and it may be tried again.
    pub async fn swap(
        &mut self,
        epoch: Option<&NewEpoch>,
        patient: bool,
    ) -> Result<bool, ReadModelError> {
        let replaced = match self.extent.clone() {
            Extent::All if !self.outlast_older().await? && patient => {
                self.release().await?;
                false
            }
            Extent::All => self.replace_tables().await?,
            Extent::Scope(scope) => self.replace_scope(&scope).await?,
        };
        if !replaced {
            return Ok(false);
        }
        let fold_revision = match self.extent {
            Extent::All => Some(FoldRevision::CURRENT),
            // The other scopes' rows are what they were.
            Extent::Scope(_) => epochs::fold_revision(&mut self.owner).await?,
        };
        if let Some(new) = epoch {
            epochs::begin(&mut self.owner, new).await?;
        }
        if let Some(fold_revision) = fold_revision {
            epochs::set_fold_revision(&mut self.owner, fold_revision).await?;
        }
        self.execute("select pg_notify('context_sync', ''); commit".to_owned()).await?;
        self.is_holding = false;
        Ok(true)
    }

    /// Waits until those are done who asked before the last records were folded here: where they come to a table after
    /// the swap, their snapshot would show the rebuilt rows without them. False if somebody takes too long.
    async fn outlast_older(&mut self) -> Result<bool, ReadModelError> {
        let older: Vec<String> = sqlx::query_scalar(
            "select l.virtualtransaction from pg_locks l join pg_stat_activity a on a.pid = l.pid
             where l.locktype = 'virtualxid' and l.mode = 'ExclusiveLock'
                 and a.datname = current_database() and a.pid <> pg_backend_pid()
                 and a.backend_type is distinct from 'autovacuum worker'
                 -- Who commits waits for this one.
                 and not exists (select from pg_locks w where w.pid = l.pid and not w.granted
                     and w.relation = 'context_sync.positions'::regclass)",
        )
        .fetch_all(&mut self.owner)
        .await?;
        let deadline = Instant::now() + OLDER_MAX;
        loop {
            let goes_on: bool = sqlx::query_scalar(
                "select exists (select from pg_locks where locktype = 'virtualxid'
                     and mode = 'ExclusiveLock' and virtualtransaction = any($1))",
            )
            .bind(&older)
            .fetch_one(&mut self.owner)
            .await?;
            if !goes_on || Instant::now() >= deadline {
                return Ok(!goes_on);
            }
            tokio::time::sleep(OLDER_PAUSE).await;
        }
    }

    /// Tables take each other's places whole: however large they are, it takes a moment. Those from before are
    /// dropped when nobody waits any more.
    async fn replace_tables(&mut self) -> Result<bool, ReadModelError> {
        let shadow = self.extent.set().schema();
        let mut statements = vec![
            LOCK_TIMEOUT.to_owned(),
            format!("lock table {} in access exclusive mode", self.both_sets()),
            format!(
                "update {shadow}.positions s set rebuilds = l.rebuilds + 1
                 from context_sync.positions l where l.partition = s.partition"
            ),
        ];
        for table in REPLACED {
            statements.push(format!("alter table context_sync.{table} set schema {TAKEN_AWAY}"));
            statements.push(format!("alter table {shadow}.{table} set schema context_sync"));
        }
        // Of a log that was cut: other records come to these places.
        statements.push(
            "delete from context_sync.dead_letter_marks k
             using context_sync.positions p, context_sync.source s
             where k.log_id = s.log_id and k.partition = p.partition and k.record_offset >= p.next_offset"
                .to_owned(),
        );
        self.try_lock(statements.join("; ")).await
    }

    /// Only one scope's rows: the others, and whoever reads, do not notice.
    async fn replace_scope(&mut self, scope: &ScopeKey) -> Result<bool, ReadModelError> {
        let (shadow, id) = (self.extent.set().schema(), scope.reference().0);
        let mut statements = vec![DatabaseRole::Projector.set_role().to_owned()];
        // What the tenant has changes by what the scope does. In partition 0, as what was there before anything was summed up.
        statements.push(format!(
            "insert into context_sync.tenant_usage as u (tenant_id, partition, live_count, live_bytes)
             select coalesce(s.tenant_id, l.tenant_id), 0,
                 coalesce(s.live_count, 0) - coalesce(l.live_count, 0),
                 coalesce(s.live_bytes, 0) - coalesce(l.live_bytes, 0)
             from (select * from context_sync.scopes where scope = '{id}') l
                 full join (select * from {shadow}.scopes where scope = '{id}') s on s.scope = l.scope
             on conflict (tenant_id, partition) do update
             set live_count = u.live_count + excluded.live_count,
                 live_bytes = u.live_bytes + excluded.live_bytes"
        ));
        for table in REPLACED.into_iter().filter(|table| !OF_NO_SCOPE.contains(table)) {
            statements.push(format!("delete from context_sync.{table} where scope = '{id}'"));
            statements.push(format!(
                "insert into context_sync.{table} select * from {shadow}.{table} where scope = '{id}'"
            ));
        }
        statements.push("reset role".to_owned());
        // Of all partitions that are held: a batch is of several.
        statements.push("update context_sync.positions set rebuilds = rebuilds + 1".to_owned());
        self.try_lock(statements.join("; ")).await
    }
}
