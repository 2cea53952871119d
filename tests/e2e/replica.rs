//! What a device keeps: applies what a pull gives in cursor order, without comparing versions.

use std::collections::HashMap;

use model::{LogFold, ScopeKey};
use serde_json::Value;
use uuid::Uuid;

use crate::{client::Device, equation};

#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) messages: HashMap<Uuid, Value>,
    pub(crate) cursor: u64,
    pub(crate) count: u64,
    pub(crate) digest: String,
}

impl Replica {
    /// Pulls page after page until there is no more.
    pub(crate) async fn catch_up(&mut self, device: &Device, scope: &str, limit: u32) {
        loop {
            let query = format!("cursor={}&limit={limit}", self.cursor);
            let page = device.pull(scope, &query).await.ok();
            self.apply(&page);
            if page["has_more"] == false {
                return;
            }
        }
    }

    pub(crate) fn apply(&mut self, page: &Value) {
        let mut last = self.cursor;
        for message in page["messages"].as_array().unwrap() {
            let cursor = message["cursor"].as_u64().unwrap();
            assert!(cursor > last, "cursors rise");
            last = cursor;
            let id = message["id"].as_str().unwrap().parse().unwrap();
            if message["deleted"] == true {
                self.messages.remove(&id);
            } else {
                self.messages.insert(id, message.clone());
            }
        }
        let (cursor, head) = (page["cursor"].as_u64().unwrap(), page["head"].as_u64().unwrap());
        let expected = if page["has_more"] == true { last } else { head };
        assert_eq!(cursor, expected, "the last message's cursor, or the head");
        self.cursor = cursor;
        self.count = page["count"].as_u64().unwrap();
        self.digest = page["digest"].as_str().unwrap().to_owned();
    }

    /// The replica of a device that has all is the fold.
    pub(crate) fn assert_is(&self, fold: &LogFold, key: &ScopeKey) {
        let live = equation::live(fold, &key.to_string());
        assert_eq!(self.messages.len(), live.len(), "messages of {key}");
        for (id, message) in &live {
            assert_eq!(self.messages.get(id), Some(message), "{id} of {key}");
        }
        let heading = &fold.scopes[key].scope.heading;
        assert_eq!((self.count, &self.digest), (heading.count, &heading.digest.to_string()));
    }
}
