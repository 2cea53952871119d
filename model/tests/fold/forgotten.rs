//! What a projector loaded before tombstones expired, laid over with what was decided since.

use model::{
    Action, Body, Change, Command, CommandId, Cursor, MessageId, MessageType, Metadata, OrgRole,
    PushedChange, RequestHash, Scope, Timestamp, UserId,
};
use uuid::Uuid;

use crate::table::write;

fn cursor(cursor: i64) -> Cursor {
    Cursor::from_i64(cursor)
}

/// A scope, and the messages that commands changed.
struct Story {
    scope: Scope,
    commands: u128,
    changed: Vec<MessageId>,
}

impl Story {
    fn apply(&mut self, action: Action) {
        self.commands += 1;
        let command = Command {
            id: CommandId(Uuid::from_u128(self.commands)),
            scope: self.scope.key.clone(),
            actor: UserId::new("ann").unwrap(),
            org_role: OrgRole::Member,
            device: None,
            request_hash: RequestHash::of(&[]),
            action,
        };
        let applied = self.scope.apply(&command, Timestamp::from_micros(1)).unwrap();
        self.changed.extend(applied.changes.iter().map(|changed| changed.id));
    }

    fn change(&mut self, change: Change) {
        let changes = vec![PushedChange { index: 0, change }];
        self.apply(Action::MessagesPushed { changes, rejected: Vec::new() });
    }

    fn write(&mut self, id: MessageId, content: &str) {
        let message_type = MessageType::new("decision").unwrap();
        let (content, metadata) = (content.to_owned(), Metadata::empty());
        let body = Body { message_type, content, metadata };
        self.change(Change::Write(write(body, Some(id), None, None)));
    }

    fn delete(&mut self, id: MessageId, base: i64) {
        self.change(Change::Delete { id, base_cursor: cursor(base) });
    }
}

/// `a` lives when it is loaded, and is deleted and forgotten since; of `b` the tombstone was there.
#[test]
fn what_went_since_it_was_loaded_is_not_there() {
    let [a, b, c] = [1, 2, 3].map(|n| MessageId(Uuid::from_u128(n)));
    let scope = Scope::new("acme/user/ann".parse().unwrap());
    let mut story = Story { scope, commands: 0, changed: Vec::new() };
    for (id, content) in [(a, "x"), (b, "y"), (c, "z")] {
        story.write(id, content);
    }
    story.delete(b, 3);
    let mut loaded = story.scope.part([a, b, c], [], []);
    assert_eq!(loaded.messages.len(), 3);
    story.changed.clear();
    story.delete(a, 1);
    story.apply(Action::TombstonesExpired { up_to: cursor(5) });
    let later = story.scope.later(std::mem::take(&mut story.changed), [], []);
    assert_eq!(later.gone, [a]);
    loaded.overlay(&later);
    assert_eq!((&loaded.messages, &loaded.live), (&story.scope.messages, &story.scope.live));
    assert_eq!(loaded.heading.floor, cursor(5));
    // What is loaded besides may be of before, too.
    let before = loaded.clone();
    loaded.insert(
        b,
        model::Entry { deleted_at: Some(Timestamp::EPOCH), ..before.messages[&c].clone() },
    );
    loaded.messages.get_mut(&b).unwrap().cursor = cursor(4);
    loaded.overlay(&later);
    assert_eq!(loaded.messages, before.messages);
}
