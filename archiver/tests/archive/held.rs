//! A store that holds an archiver at a place: whoever is killed there is killed there every time, however fast the machine is.

use std::{collections::BTreeSet, fmt, path::Path as Folder, sync::Arc, time::Duration};

use archive::{Archive, ArchiveAddress, object::Scratch};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    local::LocalFileSystem, path::Path,
};
use tokio::sync::{Mutex, watch};

use crate::bench::Bench;

const DEADLINE: Duration = Duration::from_secs(60);

/// Where an archiver is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is about to write an object that is not there, or to delete one that is.
    BeforeChange,
    /// That is done, and it does not know.
    AfterChange,
    /// It is about to read for the so many-th time, unless it is to change something before that: then it is held there.
    Read(usize),
}

/// Kills an archiver at a place below a folder of the archive. Returns where it was held; `None`: it was done before.
pub(crate) async fn killed_at(
    bench: &Bench,
    cache: &str,
    (place, below): (Place, &'static str),
    done: impl Future<Output = ()>,
) -> Option<Place> {
    let reached = watch::Sender::new(None);
    let mut reaches = reached.subscribe();
    let store = Held::over(&bench.folder, place, below, reached);
    let address = ArchiveAddress::File(bench.folder.clone());
    let archive = Archive::over(Arc::new(store), address, Scratch::default());
    let mut running = bench.start_with(cache, archive);
    let mut held = None;
    let ends = async {
        let ends = async {
            tokio::select! {
                reached = reaches.wait_for(Option::is_some) => *reached.unwrap(),
                () = done => None,
            }
        };
        held = tokio::time::timeout(DEADLINE, ends).await.unwrap();
    };
    running.during(ends).await;
    running.kill().await;
    held
}

/// Kills one archiver before and one after each change that there is to make, until one is done. Returns what was there
/// after each change: one object more, or one less, than before it.
pub(crate) async fn killed_at_each_change(
    bench: &Bench,
    cache: &str,
    done: impl AsyncFn(),
) -> Vec<BTreeSet<String>> {
    let (mut before, mut after_each) = (bench.names(), Vec::new());
    while killed_at(bench, cache, (Place::BeforeChange, ""), done()).await.is_some() {
        assert_eq!(bench.names(), before);
        // It is to come, and may be the last.
        let held = killed_at(bench, cache, (Place::AfterChange, ""), never()).await;
        assert_eq!(held, Some(Place::AfterChange));
        let after = bench.names();
        assert_eq!(before.symmetric_difference(&after).count(), 1, "{before:?} {after:?}");
        after_each.push(after.clone());
        before = after;
    }
    after_each
}

/// Of whom it is sure that they come to the place.
pub(crate) async fn never() {
    std::future::pending().await
}

/// How many objects of a kind kills have left, each number once.
pub(crate) fn left(
    after_each: &[BTreeSet<String>],
    is_such: impl Fn(&&String) -> bool,
) -> BTreeSet<usize> {
    after_each.iter().map(|names| names.iter().filter(&is_such).count()).collect()
}

/// A folder, in which one thing is done after another until the place is reached, and nothing from then on.
struct Held {
    store: Arc<LocalFileSystem>,
    turns: Arc<Turns>,
}

struct Turns {
    place: Place,
    below: &'static str,
    /// How often it was read. Whoever has come to the place keeps the turn.
    turn: Mutex<usize>,
    reached: watch::Sender<Option<Place>>,
}

impl Held {
    fn over(
        folder: &Folder,
        place: Place,
        below: &'static str,
        reached: watch::Sender<Option<Place>>,
    ) -> Self {
        let store = LocalFileSystem::new_with_prefix(folder).unwrap();
        let turns = Arc::new(Turns { place, below, turn: Mutex::new(0), reached });
        Self { store: Arc::new(store), turns }
    }

    async fn write<T>(&self, to: &Path, write: impl Future<Output = Result<T>>) -> Result<T> {
        let is_there = self.store.head(to).map(|found| found.is_ok());
        self.turns.change(to, is_there.map(|is_there| !is_there), write).await
    }
}

impl Turns {
    fn is_at(&self, place: Place, path: &Path) -> bool {
        self.place == place && path.as_ref().starts_with(self.below)
    }

    /// Whoever comes here never goes on.
    async fn hold(&self, place: Place) {
        self.reached.send_replace(Some(place));
        std::future::pending().await
    }

    async fn change<T>(
        &self,
        path: &Path,
        is_change: impl Future<Output = bool>,
        change: impl Future<Output = T>,
    ) -> T {
        let _turn = self.turn.lock().await;
        let is_change = is_change.await;
        let is_to_read = matches!(self.place, Place::Read(_));
        if is_change && (is_to_read || self.is_at(Place::BeforeChange, path)) {
            self.hold(Place::BeforeChange).await;
        }
        let changed = change.await;
        if is_change && self.is_at(Place::AfterChange, path) {
            self.hold(Place::AfterChange).await;
        }
        changed
    }

    async fn read(&self, path: &Path) {
        let mut read = self.turn.lock().await;
        let nth = *read + usize::from(path.as_ref().starts_with(self.below));
        if nth > *read && self.is_at(Place::Read(nth), path) {
            self.hold(Place::Read(nth)).await;
        }
        *read = nth;
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

#[async_trait]
impl ObjectStore for Held {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.write(location, self.store.put_opts(location, payload, options)).await
    }

    /// What is written in these tests is small.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        panic!("{location} is written in parts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turns.read(location).await;
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (store, turns) = (self.store.clone(), self.turns.clone());
        let delete = move |location: Result<Path>| {
            let (store, turns) = (store.clone(), turns.clone());
            async move {
                let location = location?;
                let is_there = store.head(&location).map(|found| found.is_ok());
                turns.change(&location, is_there, store.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (turns, listed) = (self.turns.clone(), self.store.list(prefix));
        let list = async move {
            drop(turns.turn.lock().await);
            listed
        };
        list.flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        drop(self.turns.turn.lock().await);
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write(to, self.store.copy_opts(from, to, options)).await
    }
}
