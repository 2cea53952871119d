//! The store behind the archive: create-only writes, whole reads. Nothing else knows which store it is.

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use model::Timestamp;
use object_store::{
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    local::LocalFileSystem, memory::InMemory, path::Path,
};
use tokio::sync::Semaphore;

use crate::{
    config::{ArchiveAddress, ArchiveConfig},
    error::{ArchiveError, Damage},
    gcs,
    object::{Object, Scratch, Sha256Hex, Summing},
    path::UPLOADS,
    table,
};

/// Objects up to this size are uploaded in one request, larger ones in parts of this size, in bytes.
const PART_BYTES: usize = 8 << 20;
/// Of all objects that are uploaded at the same time, this much is in memory, in KiB.
const UPLOADING_KIB_MAX: usize = 32 << 10;
/// How often an object is tried to be created before the caller hears of it, and the first pause between.
const CREATE_ATTEMPTS: u32 = 3;
const CREATE_PAUSE: Duration = Duration::from_millis(200);

/// An object's bytes, as they come.
pub type ObjectStream = BoxStream<'static, Result<Bytes, ArchiveError>>;

/// An open archive.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    address: ArchiveAddress,
    scratch: Scratch,
    /// A permit a KiB.
    uploading: Arc<Semaphore>,
}

/// How a create-only write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Created {
    Yes,
    /// Something is there already.
    No,
}

impl Archive {
    /// Opens the archive that the settings name; a directory is created where it is missing.
    ///
    /// # Errors
    /// None is named, the directory cannot be made, or the credentials cannot be read.
    pub fn open(config: &ArchiveConfig) -> Result<Self, ArchiveError> {
        let Some(address) = config.archive.clone() else {
            let problem = "none is configured: set CONTEXT_SYNC_ARCHIVE or --archive";
            return Err(ArchiveError::Open(problem.to_owned()));
        };
        let store =
            open(&address, config).map_err(|error| ArchiveError::Open(error.to_string()))?;
        Ok(Self::over(store, address, Scratch::new(config.archive_scratch.clone())))
    }

    /// As [`Self::open`], of one that somebody else writes: a directory that is missing is no archive.
    ///
    /// # Errors
    /// As [`Self::open`], and where the directory is missing.
    pub fn open_existing(config: &ArchiveConfig) -> Result<Self, ArchiveError> {
        match &config.archive {
            Some(ArchiveAddress::File(directory)) if !directory.is_dir() => {
                let problem = format!("{} is missing: check --archive", directory.display());
                Err(ArchiveError::Open(problem))
            }
            _ => Self::open(config),
        }
    }

    /// An archive in memory, gone with the last copy of this value.
    pub fn in_memory() -> Self {
        let address = ArchiveAddress::File("/memory".into());
        Self::over(Arc::new(InMemory::new()), address, Scratch::default())
    }

    /// An archive in any store; `address` is what it is called.
    pub fn over(store: Arc<dyn ObjectStore>, address: ArchiveAddress, scratch: Scratch) -> Self {
        let uploading = Arc::new(Semaphore::new(UPLOADING_KIB_MAX));
        Self { store, address, scratch, uploading }
    }

    /// Where objects are made before they are uploaded.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The full URL of an object.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.address)
    }

    /// The path of an object of this archive by its full URL.
    pub fn path_of<'a>(&self, url: &'a str) -> Option<&'a str> {
        url.strip_prefix(&self.address.to_string())?.strip_prefix('/')
    }

    /// Creates the object, or takes the one that is there if its content is the same: then `object`
    /// becomes what is stored, which another version of gzip may have packed otherwise.
    ///
    /// # Errors
    /// [`ArchiveError::OtherContent`] if another content is there: it is left alone.
    pub async fn create(&self, path: &str, object: &mut Object) -> Result<(), ArchiveError> {
        let (mut attempt, mut pause) = (1, CREATE_PAUSE);
        loop {
            match self.create_once(path, object).await {
                // Whether it is there now is not known: trying again finds out.
                Err(ArchiveError::Unavailable(error)) if attempt < CREATE_ATTEMPTS => {
                    tracing::debug!(%error, path, "an object is uploaded again");
                    tokio::time::sleep(pause).await;
                    (attempt, pause) = (attempt + 1, pause * 2);
                }
                ended => return ended,
            }
        }
    }

    async fn create_once(&self, path: &str, object: &mut Object) -> Result<(), ArchiveError> {
        match self.upload(path, object).await? {
            Created::Yes => Ok(()),
            Created::No => self.adopt(path, object).await,
        }
    }

    async fn upload(&self, path: &str, object: &mut Object) -> Result<Created, ArchiveError> {
        let to = parse(path)?;
        let in_memory = object.size_bytes.min(PART_BYTES as u64) >> 10;
        // It is never closed: what would be an error is no permit.
        let _permit = self.uploading.acquire_many(in_memory as u32 + 1).await.ok();
        object.rewind()?;
        let uploaded = if object.size_bytes <= PART_BYTES as u64 {
            let bytes = object.read_chunk(PART_BYTES)?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            self.store.put_opts(&to, PutPayload::from(bytes), options).await.map(|_| ())
        } else {
            self.upload_parts(&to, object).await?
        };
        match uploaded {
            Ok(()) => Ok(Created::Yes),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::No),
            Err(error) => Err(ArchiveError::of_write(error)),
        }
    }

    /// Uploads under a name of its content's, and copies it into place: what is put together of parts takes no
    /// precondition.
    async fn upload_parts(
        &self,
        to: &Path,
        object: &mut Object,
    ) -> Result<object_store::Result<()>, ArchiveError> {
        let whole = parse(&format!("{UPLOADS}/{}", object.sha256))?;
        let upload = self.store.put_multipart(&whole).await.map_err(ArchiveError::of_write)?;
        put_parts(upload, object).await?;
        let copied = self.store.copy_if_not_exists(&whole, to).await;
        match self.store.delete(&whole).await {
            // Gone: another writer of the same content was quicker.
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, path = %whole, "an upload's leftover cannot be deleted");
            }
        }
        Ok(copied)
    }

    async fn adopt(&self, path: &str, object: &mut Object) -> Result<(), ArchiveError> {
        let mut stored = match self.fetch(path).await {
            Err(ArchiveError::NotFound { path }) => return Err(ArchiveError::contradiction(path)),
            fetched => fetched?,
        };
        if stored.sha256 == object.sha256 {
            return Ok(());
        }
        if !same_content(path, &mut stored, object)? {
            return Err(ArchiveError::OtherContent { path: path.to_owned() });
        }
        stored.content_sha256 = object.content_sha256.clone();
        *object = stored;
        Ok(())
    }

    /// Reads a whole object into scratch, and sums it up.
    pub async fn fetch(&self, path: &str) -> Result<Object, ArchiveError> {
        let mut chunks = self.stream(path).await?;
        let mut summing = Summing::new(&self.scratch);
        while let Some(chunk) = chunks.try_next().await? {
            std::io::Write::write_all(&mut summing, &chunk)?;
        }
        summing.into_object(None)
    }

    /// As [`Self::fetch`], of an object whose hash is known.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] if it has another hash.
    pub async fn fetch_checked(
        &self,
        path: &str,
        sha256: &Sha256Hex,
    ) -> Result<Object, ArchiveError> {
        let object = self.fetch(path).await?;
        if object.sha256 == *sha256 {
            return Ok(object);
        }
        let (expected, found) = (sha256.to_string(), object.sha256.to_string());
        Err(ArchiveError::damaged(path, Damage::Checksum { expected, found }))
    }

    /// An object's bytes, as they come.
    pub async fn stream(&self, path: &str) -> Result<ObjectStream, ArchiveError> {
        let got = match self.store.get(&parse(path)?).await.map_err(ArchiveError::from) {
            // A directory says where on the disk.
            Err(ArchiveError::NotFound { .. }) => {
                return Err(ArchiveError::NotFound { path: path.to_owned() });
            }
            got => got?,
        };
        Ok(got.into_stream().map_err(ArchiveError::from).boxed())
    }

    /// The paths below a folder, sorted, and their sizes in bytes.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, ArchiveError> {
        let folder = parse(folder)?;
        let found =
            self.store.list(Some(&folder)).map_ok(|meta| (meta.location.to_string(), meta.size));
        let mut found: Vec<_> = found.try_collect().await?;
        found.sort_unstable();
        Ok(found)
    }

    /// When the newest object of a folder was written, by the store's clock; `None`: there is none.
    pub async fn last_written(&self, folder: &str) -> Result<Option<Timestamp>, ArchiveError> {
        let folder = parse(folder)?;
        let at = |meta: ObjectMeta| Timestamp::from_micros(meta.last_modified.timestamp_micros());
        let newest = |newest: Option<Timestamp>, at| async move { Ok(newest.max(Some(at))) };
        Ok(self.store.list(Some(&folder)).map_ok(at).try_fold(None, newest).await?)
    }

    /// The names of the folders right below a folder.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, ArchiveError> {
        let found = match self.store.list_with_delimiter(Some(&parse(folder)?)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            found => found?,
        };
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(found.common_prefixes.iter().filter_map(name).collect())
    }

    /// Deletes an object; whether it was there.
    pub async fn delete(&self, path: &str) -> Result<bool, ArchiveError> {
        match self.store.delete(&parse(path)?).await.map_err(ArchiveError::from) {
            Ok(()) => Ok(true),
            Err(ArchiveError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Uploads an object's parts, one after another: so only one is in memory.
async fn put_parts(
    mut upload: Box<dyn MultipartUpload>,
    object: &mut Object,
) -> Result<(), ArchiveError> {
    let put = async {
        loop {
            let part = object.read_chunk(PART_BYTES)?;
            if part.is_empty() {
                break;
            }
            upload.put_part(PutPayload::from(part)).await.map_err(ArchiveError::of_write)?;
        }
        upload.complete().await.map_err(ArchiveError::of_write).map(|_| ())
    };
    let ended = put.await;
    if ended.is_err() {
        let _ = upload.abort().await; // what is left behind is no part of the archive
    }
    ended
}

/// Whether two objects say the same, however they are packed.
fn same_content(path: &str, stored: &mut Object, ours: &mut Object) -> Result<bool, ArchiveError> {
    if path.ends_with(".gz") {
        return Ok(stored.unpacked_sha256(path)? == ours.unpacked_sha256(path)?);
    }
    if path.ends_with(".parquet") {
        return table::same_rows(stored.contents_again()?, ours.contents_again()?, path);
    }
    Ok(stored.bytes()? == ours.bytes()?)
}

/// Names are kept as they are: nothing is escaped.
fn parse(path: &str) -> Result<Path, ArchiveError> {
    Path::parse(path).map_err(|_| ArchiveError::content(path, "it is no path of an object"))
}

fn open(
    address: &ArchiveAddress,
    config: &ArchiveConfig,
) -> Result<Arc<dyn ObjectStore>, Box<dyn std::error::Error>> {
    match address {
        ArchiveAddress::File(_)
            if config.archive_storage_class.is_some() || config.archive_kms_key.is_some() =>
        {
            Err("a storage class and a key are for buckets alone".into())
        }
        ArchiveAddress::File(directory) => {
            fs::create_dir_all(directory)?;
            let local = LocalFileSystem::new_with_prefix(directory)?.with_fsync(true);
            Ok(Arc::new(local.with_automatic_cleanup(false)))
        }
        ArchiveAddress::Gcs { bucket, prefix } => gcs::open(bucket, prefix, config),
    }
}
