//! Holding the live set where it is, and putting the rebuilt rows in its place.

use model::{Cursor, Epoch, ScopeKey, ScopeRef};
use sqlx::Row;
use uuid::Uuid;

use super::{Extent, OF_NO_SCOPE, REPLACED, Rebuild};
use crate::{
    connect::{DatabaseRole, ProjectionSet},
    epochs::{self, NewEpoch},
    error::ReadModelError,
    projection::Position,
};

/// How long whoever reads the live tables may have to wait for whoever waits for them: less than what Postgres takes
/// two that wait for each other for.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '300ms'";
/// A lock was not had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What is kept of the live cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursors {
    /// Both sets are folded up to the same places: a scope whose messages have other cursors now keeps none.
    OfSamePlaces,
    /// The log was cut: the rebuilt set is what is left, which is kept where the live one goes on from it.
    OfCutLog,
}

impl Rebuild {
    /// Keeps the live positions where they are until [`Self::release`] or [`Self::swap`]; where they are. Whoever
    /// commits waits.
    pub async fn hold(&mut self) -> Result<Vec<Position>, ReadModelError> {
        self.execute("begin".to_owned()).await?;
        self.is_holding = true;
        let locked =
            sqlx::query("select from context_sync.positions order by partition for update")
                .execute(&mut self.owner)
                .await;
        if let Err(error) = locked {
            self.release().await?;
            return Err(error.into());
        }
        self.positions(ProjectionSet::Live).await
    }

    /// As [`Self::hold`], and readers wait too: for a swap of all tables. `None` if somebody had them for too long:
    /// then nobody waits, and it may be tried again.
    pub async fn hold_all(&mut self) -> Result<Option<Vec<Position>>, ReadModelError> {
        self.execute("begin".to_owned()).await?;
        self.is_holding = true;
        let tables = REPLACED.map(|table| format!("context_sync.{table}")).join(", ");
        let lock = format!("{LOCK_TIMEOUT}; lock table {tables} in access exclusive mode");
        match sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut self.owner).await {
            Ok(_) => Ok(Some(self.positions(ProjectionSet::Live).await?)),
            Err(error) => {
                self.release().await?;
                let code = error.as_database_error().and_then(|e| e.code());
                match code.as_deref() {
                    Some(LOCK_NOT_AVAILABLE) => Ok(None),
                    _ => Err(error.into()),
                }
            }
        }
    }

    /// Lets the live set move on.
    pub async fn release(&mut self) -> Result<(), ReadModelError> {
        if std::mem::take(&mut self.is_holding) {
            self.execute("rollback".to_owned()).await?;
        }
        Ok(())
    }

    /// The epoch that begins with the rebuilt rows, and its number, if cursors say something else in them; both sets
    /// are held. `differing`: scopes that were found to differ.
    pub async fn epoch(
        &mut self,
        differing: &[ScopeRef],
        cursors: Cursors,
    ) -> Result<Option<(u32, NewEpoch)>, ReadModelError> {
        let bases = self.bases(differing, cursors).await?;
        if bases.is_empty() {
            return Ok(None);
        }
        let number = epochs::next_number(&mut self.owner).await?.unsigned_abs();
        Ok(Some((number, NewEpoch { epoch: Epoch(Uuid::new_v4()), bases, keeps_unlisted: true })))
    }

    /// Puts the rebuilt rows in the place of the live ones, which are held, and an epoch in force.
    pub async fn swap(&mut self, epoch: Option<&NewEpoch>) -> Result<(), ReadModelError> {
        match self.extent.clone() {
            Extent::All => self.replace_tables().await?,
            Extent::Scope(scope) => self.replace_scope(&scope).await?,
        }
        if let Some(new) = epoch {
            epochs::begin(&mut self.owner, new).await?;
        }
        self.execute("select pg_notify('context_sync', ''); commit".to_owned()).await?;
        self.is_holding = false;
        Ok(())
    }

    /// Tables take each other's places whole: however large they are, it takes a moment.
    async fn replace_tables(&mut self) -> Result<(), ReadModelError> {
        let shadow = self.extent.set().schema();
        let mut statements = vec![format!(
            "update {shadow}.positions s set rebuilds = l.rebuilds + 1
             from context_sync.positions l where l.partition = s.partition"
        )];
        for table in REPLACED {
            statements.push(format!("drop table context_sync.{table}"));
            statements.push(format!("alter table {shadow}.{table} set schema context_sync"));
        }
        for statement in statements {
            self.execute(statement).await?;
        }
        Ok(())
    }

    /// Only one scope's rows: the others, and whoever reads, do not notice.
    async fn replace_scope(&mut self, scope: &ScopeKey) -> Result<(), ReadModelError> {
        let (shadow, id) = (self.extent.set().schema(), scope.reference().0);
        self.execute(DatabaseRole::Projector.set_role().to_owned()).await?;
        // What the tenant has changes by what the scope does. In partition 0, as what was there before anything was summed up.
        self.execute(format!(
            "insert into context_sync.tenant_usage as u (tenant_id, partition, live_count, live_bytes)
             select coalesce(s.tenant_id, l.tenant_id), 0,
                 coalesce(s.live_count, 0) - coalesce(l.live_count, 0),
                 coalesce(s.live_bytes, 0) - coalesce(l.live_bytes, 0)
             from (select * from context_sync.scopes where scope = '{id}') l
                 full join (select * from {shadow}.scopes where scope = '{id}') s on s.scope = l.scope
             on conflict (tenant_id, partition) do update
             set live_count = u.live_count + excluded.live_count,
                 live_bytes = u.live_bytes + excluded.live_bytes"
        ))
        .await?;
        for table in REPLACED.into_iter().filter(|table| !OF_NO_SCOPE.contains(table)) {
            self.execute(format!("delete from context_sync.{table} where scope = '{id}'")).await?;
            let copy = format!(
                "insert into context_sync.{table} select * from {shadow}.{table} where scope = '{id}'"
            );
            self.execute(copy).await?;
        }
        self.execute("reset role".to_owned()).await?;
        // Of all partitions that are held: a batch is of several.
        self.execute("update context_sync.positions set rebuilds = rebuilds + 1".to_owned()).await
    }

    /// What is kept of scopes whose cursors say something else in the rebuilt rows.
    async fn bases(
        &mut self,
        differing: &[ScopeRef],
        cursors: Cursors,
    ) -> Result<Vec<(ScopeRef, Cursor)>, ReadModelError> {
        let shadow = self.extent.set().schema();
        // Of a cut log, a message that has moved on behind what is left of it may lack where it was.
        let moved_on = match cursors {
            Cursors::OfSamePlaces => "false",
            Cursors::OfCutLog => {
                "exists (select from context_sync.messages m
                     where m.id_key = s.id_key and m.cursor > heads.rebuilt)"
            }
        };
        let query = format!(
            "with heads as (
                 select w.scope, coalesce(l.head, 0) as live, coalesce(s.head, 0) as rebuilt
                 from unnest($1::uuid[]) as w (scope)
                     left join context_sync.scopes l on l.scope = w.scope
                     left join {shadow}.scopes s on s.scope = w.scope
             ), compared as (
                 select heads.*, exists (
                     select from (select * from context_sync.messages m
                             where m.scope = heads.scope and m.cursor <= heads.rebuilt) l
                         full join (select * from {shadow}.messages m where m.scope = heads.scope) s
                             on s.cursor = l.cursor
                     where l.id is distinct from s.id and not (l.id is null and {moved_on})
                         -- What only the rebuilt rows have lies behind the live head: it is new.
                         and not (l.id is null and s.cursor > heads.live)
                 ) as differs
                 from heads
             )
             select scope, case when differs then 0 else rebuilt end as base from compared
             where differs or live > rebuilt"
        );
        self.execute(DatabaseRole::Projector.set_role().to_owned()).await?;
        let scopes: Vec<Uuid> = differing.iter().map(|scope| scope.0).collect();
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(query)).bind(scopes).fetch_all(&mut self.owner).await?;
        self.execute("reset role".to_owned()).await?;
        let base = |row: &sqlx::postgres::PgRow| {
            let (scope, base) = (row.try_get("scope")?, row.try_get("base")?);
            Ok((ScopeRef(scope), Cursor::from_i64(base)))
        };
        rows.iter().map(base).collect()
    }
}
