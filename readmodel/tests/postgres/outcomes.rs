//! Outcomes: asked for by place, by their actor, and forgotten by the log's time.

use model::{Command, CommandId, Offset, Partition, Place, TenantId, Verdict};
use readmodel::{
    DatabaseRole,
    outcomes::{Decided, decided, decided_for, positions},
};
use uuid::Uuid;

use crate::{
    commands::{push, say, user},
    database::Database,
    writer::{Writer, advance},
};

fn at(partition: u32, offset: u64) -> Place {
    Place { partition: Partition::new(partition), offset: Offset::new(offset).unwrap() }
}

async fn one_push() -> (Database, Writer, Command) {
    let database = Database::migrated().await;
    let mut writer = Writer::new(&database).await;
    let command = push("acme/user/ann", "ann", &[say("x")]);
    writer.write(&command).await;
    (database, writer, command)
}

#[tokio::test]
async fn a_command_is_decided_once_the_read_model_is_past_its_place() {
    let (database, _, command) = one_push().await;
    let ingest = database.role(DatabaseRole::Ingest);
    let other = CommandId(Uuid::new_v4());
    let asked = [
        (command.id, at(0, 0)),
        (other, at(0, 0)),
        (other, at(0, 1)),
        (other, at(1, 0)),
        (other, at(9, 0)),
        (command.id, at(0, 0)),
    ];
    let mut decided = decided(&ingest, &asked).await.unwrap();
    let is_ours = |decided: Option<Decided>| match decided {
        Some(Decided::Outcome(outcome)) => {
            matches!(&outcome.verdict, Verdict::Pushed(answer) if answer.push_id == command.id)
        }
        _ => false,
    };
    assert!(is_ours(decided.pop()));
    assert_eq!(decided[1..], [Decided::Nothing, Decided::NotYet, Decided::NotYet, Decided::NotYet]);
    assert!(is_ours(decided.into_iter().next()));
}

#[tokio::test]
async fn an_outcome_is_shown_to_its_actor_alone() {
    let (database, _, command) = one_push().await;
    let api = database.role(DatabaseRole::Api);
    let ask = async |tenant: &str, actor: &str, place| {
        let tenant = TenantId::new(tenant).unwrap();
        decided_for(&api, &tenant, &user(actor), command.id, place).await.unwrap()
    };
    for place in [None, Some(at(0, 0)), Some(at(0, 7))] {
        assert!(matches!(ask("acme", "ann", place).await, Decided::Outcome(_)));
    }
    for (tenant, actor) in [("acme", "bob"), ("globex", "ann")] {
        assert_eq!(ask(tenant, actor, Some(at(0, 0))).await, Decided::Nothing);
        assert_eq!(ask(tenant, actor, Some(at(0, 7))).await, Decided::NotYet);
        assert_eq!(ask(tenant, actor, None).await, Decided::Nothing);
    }
}

#[tokio::test]
async fn a_parked_command_is_still_to_be_decided_and_a_refused_one_is_not() {
    let (database, _, _) = one_push().await;
    let (ingest, api) = (database.role(DatabaseRole::Ingest), database.role(DatabaseRole::Api));
    let id = CommandId(Uuid::new_v4());
    for (kind, expected) in [("parked", Decided::NotYet), ("refused", Decided::Nothing)] {
        let letter = "insert into dead_letters
            (partition, record_offset, kind, append_time_us, time_us, key, value, reason)
            values (0, 0, $1, 1, 1, 'acme/user/ann', '', 'a bug')
            on conflict (partition, record_offset) do update set kind = excluded.kind";
        sqlx::query(letter).bind(kind).execute(&database.owner_pool()).await.unwrap();
        assert_eq!(decided(&ingest, &[(id, at(0, 0))]).await.unwrap()[0], expected);
        for (tenant, expected) in [("acme", expected), ("acm", Decided::Nothing)] {
            let tenant = TenantId::new(tenant).unwrap();
            let told = decided_for(&api, &tenant, &user("ann"), id, Some(at(0, 0))).await.unwrap();
            assert_eq!(told, expected, "{kind} {tenant}");
        }
    }
}

#[tokio::test]
async fn outcomes_expire_by_the_logs_time_alone() {
    const HOUR: i64 = 3_600_000_000;
    let (database, mut writer, command) = one_push().await;
    let ingest = database.role(DatabaseRole::Ingest);
    // Folded in 2025: by the clock it would be long gone.
    let folded = advance(0, 0, 1).to;
    for (partition, hours, left) in [(0, 26, true), (1, 27, true), (0, 27, false)] {
        let mut position = folded;
        position.partition = Partition::new(partition);
        position.clock.time = folded.clock.time.plus_micros(hours * HOUR);
        let deleted = writer.projection.expire_outcomes(&position).await.unwrap();
        assert_eq!(deleted, u64::from(!left), "{partition} {hours}");
        let asked = decided(&ingest, &[(command.id, at(0, 0))]).await.unwrap();
        assert_eq!(matches!(asked[0], Decided::Outcome(_)), left);
    }
}

#[tokio::test]
async fn positions_are_the_offsets_to_fold_next() {
    let (database, ..) = one_push().await;
    let positions = positions(&database.role(DatabaseRole::Ingest)).await.unwrap();
    let next = |offset| Offset::new(offset).unwrap();
    assert_eq!(positions, [(Partition::new(0), next(1)), (Partition::new(1), next(0))]);
}
