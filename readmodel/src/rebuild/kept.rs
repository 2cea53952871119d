//! What devices keep of their cursors, where cursors say something else in the rebuilt rows.

use model::{Cursor, Epoch, FoldRevision, ScopeRef};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{Comparing, Rebuild};
use crate::{connect::DatabaseRole, epochs::NewEpoch, error::ReadModelError};

/// What is kept of the live cursors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursors {
    /// Both sets are folded up to the same places: a scope whose messages have other cursors now keeps none.
    OfSamePlaces,
    /// The log was cut: the rebuilt set is what is left, which is kept where the live one goes on from it.
    OfCutLog,
}

/// A scope that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DifferingScope {
    pub scope: ScopeRef,
    /// The live head when both sets were compared.
    head: Cursor,
    /// Up to which cursor both say the same; `None`: all do. Where they say something else, what both have forgotten before
    /// that: it stays so for whoever had it.
    pub base: Option<Cursor>,
}

impl Comparing {
    /// What is kept of each scope that differs, as both sets stood when they were compared. Nobody waits for it.
    pub async fn kept(
        &mut self,
        differing: &[ScopeRef],
        cursors: Cursors,
    ) -> Result<Vec<DifferingScope>, ReadModelError> {
        let shadow = self.shadow;
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
                 select w.scope, coalesce(l.head, 0) as live, coalesce(s.head, 0) as rebuilt,
                     coalesce(least(l.floor, s.floor), 0) as forgotten
                 from unnest($1::uuid[]) as w (scope)
                     left join context_sync.scopes l on l.scope = w.scope
                     left join {shadow}.scopes s on s.scope = w.scope
             ), compared as (
                 select heads.*, (
                     select min(coalesce(l.cursor, s.cursor)) from (select * from context_sync.messages m
                             where m.scope = heads.scope and m.cursor <= heads.rebuilt) l
                         full join (select * from {shadow}.messages m where m.scope = heads.scope) s
                             on s.cursor = l.cursor
                     where l.id is distinct from s.id and not (l.id is null and {moved_on})
                         -- What only the rebuilt rows have lies behind the live head: it is new.
                         and not (l.id is null and s.cursor > heads.live)
                 ) as differs_at
                 from heads
             )
             select scope, live, case
                 when differs_at is not null then least(forgotten, differs_at - 1)
                 when live > rebuilt then rebuilt
             end as base from compared"
        );
        let scopes: Vec<Uuid> = differing.iter().map(|scope| scope.0).collect();
        let rows =
            sqlx::query(AssertSqlSafe(query)).bind(scopes).fetch_all(&mut self.connection).await?;
        let kept = |row: &sqlx::postgres::PgRow| {
            let base: Option<i64> = row.try_get("base")?;
            Ok(DifferingScope {
                scope: ScopeRef(row.try_get("scope")?),
                head: Cursor::from_i64(row.try_get("live")?),
                base: base.map(Cursor::from_i64),
            })
        };
        rows.iter().map(kept).collect()
    }
}

impl Rebuild {
    /// Looks again at scopes whose cursors said the same when they were compared; both sets are held. Since then both
    /// have folded the same, but from rows that differ: what came may have got other cursors.
    pub async fn look_again(
        &mut self,
        differing: &mut [DifferingScope],
    ) -> Result<(), ReadModelError> {
        let same = || differing.iter().filter(|scope| scope.base.is_none());
        let scopes: Vec<Uuid> = same().map(|scope| scope.scope.0).collect();
        let heads: Vec<i64> = same().map(|scope| scope.head.as_i64()).collect();
        let shadow = self.extent.set().schema();
        let query = format!(
            "with heads as (
                 select w.scope, w.head, coalesce(l.head, 0) as live, coalesce(s.head, 0) as rebuilt
                 from unnest($1::uuid[], $2::bigint[]) as w (scope, head)
                     left join context_sync.scopes l on l.scope = w.scope
                     left join {shadow}.scopes s on s.scope = w.scope
             )
             select scope from heads
             where live > rebuilt or exists (
                 select from (select * from context_sync.messages m
                         where m.scope = heads.scope and m.cursor > heads.head) l
                     full join (select * from {shadow}.messages m
                         where m.scope = heads.scope and m.cursor > heads.head) s
                         on s.cursor = l.cursor
                 where l.id is distinct from s.id and not (l.id is null and s.cursor > heads.live))"
        );
        self.execute(DatabaseRole::Projector.set_role().to_owned()).await?;
        let other: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(query))
            .bind(scopes)
            .bind(heads)
            .fetch_all(&mut self.owner)
            .await?;
        self.execute("reset role".to_owned()).await?;
        for scope in differing.iter_mut().filter(|scope| other.contains(&scope.scope.0)) {
            scope.base = Some(scope.head);
        }
        Ok(())
    }

    /// The epoch that begins with the rebuilt rows, if cursors say something else in them.
    pub fn epoch(&self, differing: &[DifferingScope]) -> Option<NewEpoch> {
        let base = |scope: &DifferingScope| Some((scope.scope, scope.base?));
        let bases: Vec<_> = differing.iter().filter_map(base).collect();
        let begins = !bases.is_empty();
        begins.then(|| NewEpoch {
            epoch: Epoch(Uuid::new_v4()),
            bases,
            keeps_unlisted: true,
            fold_revision: FoldRevision::CURRENT,
        })
    }
}
