//! A store that fails as it is told.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
};

use archive::{Archive, ArchiveAddress, object::Scratch};
use async_trait::async_trait;
use futures_util::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};

/// What is done with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Read,
    List,
    ListFolders,
    Delete,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    /// Nothing is done.
    Before(Cause),
    /// It is done, and an error is said even so.
    After(Cause),
    /// It never ends.
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Down,
    Full,
    ReadOnly,
    Forbidden,
    NoBucket,
}

impl Cause {
    fn error(self) -> Error {
        let generic = |source| Error::Generic { store: "test", source };
        match self {
            Self::Down => generic("503 Service Unavailable".into()),
            Self::Full => generic(Box::new(io::Error::from(io::ErrorKind::StorageFull))),
            Self::ReadOnly => generic(Box::new(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))),
            Self::Forbidden => Error::PermissionDenied { path: "x".into(), source: "403".into() },
            Self::NoBucket => generic("404: <Code>NoSuchBucket</Code>".into()),
        }
    }
}

type Rule = Box<dyn FnMut(Operation) -> Option<Fails> + Send>;

/// In memory.
pub(crate) struct Unreliable {
    inner: Arc<InMemory>,
    rule: Mutex<Rule>,
}

impl Unreliable {
    pub(crate) fn over(
        inner: &Arc<InMemory>,
        rule: impl FnMut(Operation) -> Option<Fails> + Send + 'static,
    ) -> Archive {
        archive(Arc::new(Self { inner: inner.clone(), rule: Mutex::new(Box::new(rule)) }))
    }

    async fn fails(&self, operation: Operation) -> Result<Option<Cause>> {
        let fails = (self.rule.lock().unwrap())(operation);
        match fails {
            None => Ok(None),
            Some(Fails::Before(cause)) => Err(cause.error()),
            Some(Fails::After(cause)) => Ok(Some(cause)),
            Some(Fails::Hangs) => std::future::pending().await,
        }
    }
}

pub(crate) fn archive(store: Arc<dyn ObjectStore>) -> Archive {
    Archive::over(store, ArchiveAddress::File("/memory".into()), Scratch::default())
}

fn after<T>(cause: Option<Cause>, done: T) -> Result<T> {
    match cause {
        Some(cause) => Err(cause.error()),
        None => Ok(done),
    }
}

impl fmt::Debug for Unreliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unreliable")
    }
}

impl fmt::Display for Unreliable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unreliable")
    }
}

#[async_trait]
impl ObjectStore for Unreliable {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let cause = self.fails(Operation::Write).await?;
        after(cause, self.inner.put_opts(location, payload, options).await?)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let cause = self.fails(Operation::Write).await?;
        after(cause, self.inner.put_multipart_opts(location, options).await?)
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let cause = self.fails(Operation::Read).await?;
        after(cause, self.inner.get_opts(location, options).await?)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match (self.rule.lock().unwrap())(Operation::Delete) {
            Some(Fails::Before(cause) | Fails::After(cause)) => failing(cause),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match (self.rule.lock().unwrap())(Operation::List) {
            Some(Fails::Before(cause) | Fails::After(cause)) => failing(cause),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let cause = self.fails(Operation::ListFolders).await?;
        after(cause, self.inner.list_with_delimiter(prefix).await?)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let cause = self.fails(Operation::Write).await?;
        after(cause, self.inner.copy_opts(from, to, options).await?)
    }
}

fn failing<T: Send + 'static>(cause: Cause) -> BoxStream<'static, Result<T>> {
    stream::once(async move { Err(cause.error()) }).boxed()
}
