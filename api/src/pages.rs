//! Pages that several devices pull: a push to a team is pulled by all its devices at once, and whoever comes to it pulls
//! its history from the beginning.
//!
//! A page is kept with what the scope summed up to then, and given to another only while the scope sums up to the same:
//! what the page says follows from that. Whether the other may see it is asked anew, as for each pull
//! (docs/decisions/0023-shared-pages.md).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use model::{Cursor, ScopeRef};
use moka::sync::Cache;
use readmodel::pull::{Glance, Page, Summary};
use tokio::sync::watch;

use crate::measure;

/// How long a page is given to others.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long to wait for what others ask, before asking for oneself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// What a page takes beside its messages, in bytes.
const PAGE_BYTES: usize = 256;

/// What a pull asks for. (Which bytes a page may have at most is the same for all.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) scope: ScopeRef,
    pub(crate) after: Cursor,
    pub(crate) limit: u32,
}

/// A page as it was pulled, and what the scope summed up to.
#[derive(Clone)]
pub(crate) struct KeptPage {
    pub(crate) summary: Summary,
    messages: Bytes,
    last: Option<Cursor>,
    has_more: bool,
}

impl KeptPage {
    /// The page for one who glanced at the scope and found it as it was.
    pub(crate) fn of(self, glance: Glance) -> Page {
        measure::page_shared();
        let Self { messages, last, has_more, .. } = self;
        Page { messages, last, has_more, ..Page::empty(glance) }
    }
}

pub(crate) struct Pages {
    /// `None`: none is kept.
    kept: Option<Cache<PageKey, KeptPage>>,
    /// What is asked for right now; whoever asks keeps the sending half.
    asked: Mutex<HashMap<PageKey, watch::Receiver<()>>>,
}

/// The turn to ask Postgres. Whoever waits for the page is told when it is dropped.
pub(crate) struct Turn<'a> {
    pages: &'a Pages,
    key: PageKey,
    _tell: watch::Sender<()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pages.asked().remove(&self.key);
    }
}

impl Pages {
    pub(crate) fn new(bytes_max: u32) -> Self {
        let weigh = |_: &PageKey, page: &KeptPage| {
            u32::try_from(page.messages.len() + PAGE_BYTES).unwrap_or(u32::MAX)
        };
        let kept = (bytes_max > 0).then(|| {
            Cache::builder()
                .max_capacity(bytes_max.into())
                .weigher(weigh)
                .time_to_live(KEPT_FOR)
                .build()
        });
        Self { kept, asked: Mutex::default() }
    }

    pub(crate) fn keep_any(&self) -> bool {
        self.kept.is_some()
    }

    pub(crate) fn kept(&self, key: &PageKey) -> Option<KeptPage> {
        self.kept.as_ref()?.get(key)
    }

    /// Keeps a page in place of an earlier one.
    pub(crate) fn keep(&self, key: PageKey, page: &Page) {
        let Some(kept) = &self.kept else { return };
        // One who may not pull was given none of the messages.
        if page.messages.is_empty() {
            return;
        }
        let Page { summary, ref messages, last, has_more, .. } = *page;
        kept.insert(key, KeptPage { summary, messages: messages.clone(), last, has_more });
    }

    /// The turn to ask for a page; where another asks for it already, `None` once that one has, or has given up, or
    /// takes long.
    pub(crate) async fn turn(&self, key: PageKey) -> Option<Turn<'_>> {
        let mut others = {
            let mut asked = self.asked();
            match asked.get(&key) {
                Some(others) => others.clone(),
                None => {
                    let (tell, told) = watch::channel(());
                    asked.insert(key, told);
                    return Some(Turn { pages: self, key, _tell: tell });
                }
            }
        };
        // Nothing is ever sent: it ends with the sender.
        let _ = tokio::time::timeout(PATIENCE, others.changed()).await;
        None
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<PageKey, watch::Receiver<()>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
